"""Every source against its own package: same outputs, same rule for another image size, every key accounted for."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from conftest import RandomParameters, build, record_of, toy_spec
from helpers import reference_google
from helpers.originals import CLASSIFIERS, ORIGINALS, STUDENT, fabricated, worst
from safetensors.numpy import load_file, save_file

from vit_export.base.errors import InputError
from vit_export.model.parameters import parameter_specs
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import get_variant
from vit_export.weights.open import open_checkpoint
from vit_export.weights.positions import resample


def renamed(folder, names):
    """Change the keys of the checkpoint in `folder` by replacing parts of them."""
    stored = load_file(folder / "model.safetensors")
    for old, new in names.items():
        stored = {key.replace(old, new): value for key, value in stored.items()}
    save_file(stored, folder / "model.safetensors")


# The same model


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logits_are_those_of_the_original_package(name, golden):
    checkpoint = open_checkpoint(ORIGINALS / name, num_heads=4)
    assert checkpoint.spec.num_classes == 7
    assert worst(build(checkpoint).predict_output(golden["images"]), golden[f"{name}/logits"]) < 1e-5
    larger = checkpoint.adapted(checkpoint.spec.with_(image_size=48))
    assert worst(build(larger).predict_output(golden["larger_images"]), golden[f"{name}/larger_logits"]) < 1e-5


def test_the_comparison_would_notice_a_wrong_epsilon(golden):
    checkpoint = open_checkpoint(ORIGINALS / "hf")
    assert checkpoint.spec.layer_norm_epsilon == 1e-12
    other = RandomParameters(checkpoint.spec.with_(layer_norm_epsilon=1e-6))
    other._values = {p.name: checkpoint.read(p.name) for p in parameter_specs(checkpoint.spec)}
    assert worst(build(other).predict_output(golden["images"]), golden["hf/logits"]) > 1e-4


def test_hugging_faces_pooler_is_kept_or_left_out(golden):
    checkpoint = open_checkpoint(ORIGINALS / "hf_model")
    spec = checkpoint.spec
    assert (spec.num_classes, spec.pre_logits_size) == (None, 32)
    assert worst(build(checkpoint).predict_output(golden["images"]), golden["hf_model/pooler_output"]) < 1e-5
    features = checkpoint.adapted(spec.with_(pre_logits_size=None))
    assert worst(build(features).predict_output(golden["images"]), golden["hf_model/class_token"]) < 1e-5
    assert "pooler" in features.notes[-1]
    larger = features.adapted(features.spec.with_(image_size=48))
    found = build(larger).predict_output(golden["larger_images"])
    assert worst(found, golden["hf_model/larger_class_token"]) < 1e-5


def test_hugging_faces_newer_names(altered, golden):
    folder = altered("hf")
    renamed(
        folder,
        {
            "encoder.layer.": "layers.",
            "attention.attention.query": "attention.q_proj",
            "attention.attention.key": "attention.k_proj",
            "attention.attention.value": "attention.v_proj",
            "attention.output.dense": "attention.o_proj",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
        },
    )
    assert worst(build(open_checkpoint(folder)).predict_output(golden["images"]), golden["hf/logits"]) < 1e-5


def test_hugging_face_in_shards(tmp_path, golden):
    stored = load_file(ORIGINALS / "hf" / "model.safetensors")
    keys = sorted(stored)
    shards = {"model-00001-of-00002.safetensors": keys[::2], "model-00002-of-00002.safetensors": keys[1::2]}
    for name, part in shards.items():
        save_file({key: stored[key] for key in part}, tmp_path / name)
    index = {"weight_map": {key: name for name, part in shards.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(ORIGINALS / "hf" / "config.json", tmp_path)
    assert worst(build(open_checkpoint(tmp_path)).predict_output(golden["images"]), golden["hf/logits"]) < 1e-5


@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_a_file_alone_and_keys_of_a_wrapper(name, altered, golden):
    file = altered(name) / "model.safetensors"
    stored = load_file(file)
    save_file({f"module.{key}": value for key, value in stored.items()}, file.with_name("wrapped.safetensors"))
    found = build(open_checkpoint(file.with_name("wrapped.safetensors"), num_heads=4)).predict_output(golden["images"])
    assert worst(found, golden[f"{name}/logits"]) < 1e-5


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"newer_names": True, "prefix": "params/"},
        {"prefix": "opt/target/", "pre_logits": True},
        {"stacked": True},
        {"stacked": True, "pre_logits": True, "prefix": "params/"},
        {"sizes": STUDENT.with_(num_classes=None)},
        {"sizes": STUDENT.with_(image_size=48)},
    ],
    ids=lambda options: "-".join(options) or "released",
)
def test_googles_layouts_by_an_independent_forward_pass(options, tmp_path, golden):
    size = options.get("sizes", STUDENT).image_size
    images = golden["images"] if size == 32 else golden["larger_images"]
    arrays = fabricated(tmp_path / "any.name", **options)
    (tmp_path / "any.name.npz").rename(tmp_path / "weights.bin")
    checkpoint = open_checkpoint(tmp_path / "weights.bin")
    assert (checkpoint.spec.num_layers, checkpoint.spec.num_heads, checkpoint.spec.gelu) == (5, 4, "tanh")
    wanted = reference_google.forward(arrays, images, prefix=options.get("prefix", ""))
    output = wanted["logits"] if checkpoint.spec.num_classes else wanted["class_token"]
    assert worst(build(checkpoint).predict_output(images), output) < 1e-5
    erf = RandomParameters(checkpoint.spec.with_(gelu="erf"))
    erf._values = {p.name: checkpoint.read(p.name) for p in parameter_specs(checkpoint.spec)}
    assert worst(build(erf).predict_output(images), output) > 3e-5  # the comparison would notice the wrong GELU


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_googles_file_in_other_precisions(dtype, tmp_path, golden):
    import ml_dtypes

    arrays = reference_google.fabricate(STUDENT, np.random.default_rng(3))
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    stored = {key: array.astype(kind) for key, array in arrays.items()}
    rounded = {key: array.astype(np.float32) for key, array in stored.items()}
    # big_vision stores bfloat16 as bytes without a name, which is all that .npy has for it.
    np.savez(tmp_path / "w.npz", **{k: a.view("V2") if dtype == "bfloat16" else a for k, a in stored.items()})
    found = build(open_checkpoint(tmp_path / "w.npz")).predict_output(golden["images"])
    assert worst(found, reference_google.forward(rounded, golden["images"])["logits"]) < 1e-5


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ""])
def test_what_our_own_model_saved(suffix, tmp_path, images):
    source = RandomParameters(toy_spec(pre_logits_size=20), seed=4)
    model = build(source)
    model.record = replace(
        record_of(source.spec), preprocessing=Preprocessing(32, mean=(0.1, 0.2, 0.3)), labels=tuple("abcdefghij")
    )
    model.compile("adam", "mse", run_eagerly=True)
    model.train_on_batch(images, np.zeros((6, 10), np.float32))  # fills the optimizer's state
    expected = model.predict_output(images)
    path = tmp_path / f"tuned{suffix}"
    if suffix == ".keras":
        model.save(path)
    elif suffix:
        model.save_weights(path)
    else:
        from vit_export.model.saved_model import write_saved_model

        write_saved_model(model, path)
    checkpoint = open_checkpoint(path, num_heads=4)
    assert checkpoint.own
    assert checkpoint.record.trained
    if suffix:
        told = checkpoint.record.weights
        assert (told["source"], told["location"], told["file"]) == ("keras", str(path), path.name)
        assert told["sha256"] == sha256(path.read_bytes()).hexdigest()
    np.testing.assert_array_equal(build(checkpoint).predict_output(images), expected)
    if suffix != ".weights.h5":
        assert checkpoint.spec == source.spec
        assert checkpoint.labels == tuple("abcdefghij")
        assert checkpoint.preprocessing == model.record.preprocessing
    else:
        assert "numbers alone" in checkpoint.notes[0]


# What belongs to the weights


@pytest.mark.parametrize(
    ("name", "positions", "preprocessing"),
    [
        ("hf", "bicubic", Preprocessing(32)),
        ("timm", "bicubic_antialiased", Preprocessing(32, (0.5,) * 3, (0.5,) * 3, "shortest", 0.9, "bicubic")),
        (
            "torchvision",
            "bicubic_aligned",
            Preprocessing(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "shortest", 0.875),
        ),
    ],
)
def test_rules_of_the_source(name, positions, preprocessing):
    checkpoint = open_checkpoint(ORIGINALS / name, num_heads=4)
    assert checkpoint.record.positions == positions
    assert checkpoint.preprocessing == preprocessing
    assert checkpoint.record.weights["source"] == {"hf": "huggingface"}.get(name, name)
    guesses = {"torchvision": {"scaling", "resizing"}}
    assert checkpoint.record.assumed.keys() == guesses.get(name, set())


def test_labels_of_the_source(altered):
    assert open_checkpoint(ORIGINALS / "hf").labels[:2] == ("tabby cat", "hen")
    assert open_checkpoint(ORIGINALS / "timm").labels is None  # in1k, but seven classes
    named = altered("timm", {"label_names": list("abcdefg")})
    assert open_checkpoint(named).labels == tuple("abcdefg")


def test_imagenets_labels_where_the_source_says_so(tmp_path):
    sizes = STUDENT.with_(num_classes=1000)
    fabricated(tmp_path / "B_16-i21k-300ep--imagenet2012-steps_20k-res_224.npz", sizes=sizes)
    fabricated(tmp_path / "mine.npz", sizes=sizes)
    told = open_checkpoint(tmp_path / "B_16-i21k-300ep--imagenet2012-steps_20k-res_224.npz")
    assert told.labels[0] == "tench, Tinca tinca"
    silent = open_checkpoint(tmp_path / "mine.npz")
    assert silent.labels is None
    assert any("--labels imagenet" in note for note in silent.notes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": 40, "image_mean": [0.1, 0.2, 0.3]}, Preprocessing(32, (0.1, 0.2, 0.3))),
        (
            {
                "size": {"shortest_edge": 40},
                "do_center_crop": True,
                "crop_size": {"height": 32, "width": 32},
                "resample": 3,
            },
            Preprocessing(32, resize="shortest", crop_fraction=0.8, interpolation="bicubic"),
        ),
        ({"size": {"shortest_edge": 32}}, Preprocessing(32, resize="shortest")),
        ({"do_normalize": False}, Preprocessing(32, (0, 0, 0), (1, 1, 1))),
    ],
    ids=["old", "crop", "shortest", "unnormalized"],
)
def test_preprocessor_config(changes, expected, altered):
    assert open_checkpoint(altered("hf", preprocessor=changes)).preprocessing == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rescale_factor": 0}, "rescale_factor .*expected 1/255"),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, "rescale_offset True"),
        ({"rescale_factor": 1 / 127.5, "offset": True}, "offset True"),
        ({"do_rescale": False}, r"do_rescale False, expected true.*\.mean and Preprocessing\.std on the 0\.\.1 scale"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order True, expected false"),
        ({"crop_pct": 0.9}, "crop_pct 0.9, expected none"),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": True, "crop_size": 40}, "at most the size 32"),
        ({"resample": 0}, "resample 0, expected 2"),
        ({"resample": [2]}, r"resample \[2\], expected 2"),
        ({"rescale_factor": float("nan")}, "rescale_factor nan"),
        ({"do_resize": False}, "do_resize False"),
        ({"size": {"height": 32, "width": None}}, "expected height and width"),
        ({"size": {"longest_edge": 32}}, "expected height and width, or shortest_edge"),
        ({"do_center_crop": True, "crop_size": 32, "size": {"shortest_edge": 16}}, "crop_size 32"),
        ({"image_mean": [123, 117, 104]}, r"divide those on the 0\.\.255 scale by 255"),
        ({"image_std": "x"}, "image_std 'x', expected three numbers"),
    ],
    ids=str,
)
def test_preprocessor_config_that_cannot_be_followed(changes, message, altered):
    with pytest.raises(InputError, match=message):
        open_checkpoint(altered("hf", preprocessor=changes))


def test_names_and_sizes_come_from_the_checkpoint(tmp_path):
    fabricated(tmp_path / "student.npz")
    assert open_checkpoint(tmp_path / "student.npz").spec.name == "vit_l5_d32_p8"
    tiny = ViTSpec.of("vit_ti16", image_size=32, num_classes=3)
    fabricated(tmp_path / "tiny.npz", sizes=tiny)
    found = open_checkpoint(tmp_path / "tiny.npz", variant=get_variant("vit_ti16")).spec
    assert found == tiny.with_(gelu="tanh")
    with pytest.raises(InputError, match=r"holds vit_ti16 \(patch 16, 12 layers, width 192.*but vit_s16 is"):
        open_checkpoint(tmp_path / "tiny.npz", variant=get_variant("vit_s16"))
    assert open_checkpoint(tmp_path / "tiny.npz", variant="vit_ti16").spec == found
    with pytest.raises(InputError, match="did you mean 'vit_s16'"):
        open_checkpoint(tmp_path / "tiny.npz", variant="vit_s17")
    with pytest.raises(InputError, match=r"of patch 8, 5 layers, .*no variant of the table: leave vit_s16 out"):
        open_checkpoint(tmp_path / "student.npz", variant="vit_s16")


def test_heads_are_told_known_or_asked_for(altered):
    silent = altered("timm", {"model_args": None})
    with pytest.raises(InputError, match=r"does not say how many attention heads its width of 32 .*num_heads"):
        open_checkpoint(silent)
    assert open_checkpoint(silent, num_heads=4).spec.num_heads == 4
    with pytest.raises(InputError, match="5 attention heads do not divide the width 32"):
        open_checkpoint(silent, num_heads=5)
    with pytest.raises(InputError, match="has 4 attention heads, 8 were asked for"):
        open_checkpoint(ORIGINALS / "timm", num_heads=8)


# Changed on the way


def test_another_image_size_touches_the_position_embedding_alone():
    checkpoint = open_checkpoint(ORIGINALS / "timm")
    larger = checkpoint.adapted(checkpoint.spec.with_(image_size=48))
    for parameter in parameter_specs(larger.spec):
        if parameter.name != "position_embedding":
            np.testing.assert_array_equal(larger.read(parameter.name), checkpoint.read(parameter.name))
    before = checkpoint.read("position_embedding")
    found = larger.read("position_embedding")
    np.testing.assert_array_equal(found, resample(before, (4, 4), (6, 6), "bicubic_antialiased"))
    np.testing.assert_array_equal(found[:, 0], before[:, 0])
    assert larger.preprocessing == replace(checkpoint.preprocessing, image_size=48)
    assert "resampled from 32 to 48 pixels" in larger.notes[-1]
    assert larger.record.weights["resampled_from_image_size"] == 32


def test_another_number_of_classes_is_a_new_classifier():
    checkpoint = open_checkpoint(ORIGINALS / "hf")
    other = checkpoint.adapted(checkpoint.spec.with_(num_classes=3), seed=5)
    assert other.read("head/kernel").shape == (32, 3)
    assert 0.1 < other.read("head/kernel").std() < 0.5
    np.testing.assert_array_equal(other.read("head/kernel"), other.read("head/kernel"))
    assert not other.read("head/bias").any()
    assert other.labels is None
    assert not other.record.trained
    assert "new and untrained, in place of 7 classes" in other.notes[-1]
    none = checkpoint.adapted(checkpoint.spec.with_(num_classes=None))
    assert none.record.trained
    assert "classifier of 7 classes is left out" in none.notes[-1]
    added = none.adapted(none.spec.with_(num_classes=2))
    assert "where there was none" in added.notes[-1]


def test_anything_else_is_another_model():
    checkpoint = open_checkpoint(ORIGINALS / "hf")
    with pytest.raises(InputError, match="gelu 'erf' where 'tanh' was asked for"):
        checkpoint.adapted(checkpoint.spec.with_(gelu="tanh"))


def test_an_empty_classifier_is_told(tmp_path):
    fabricated(tmp_path / "w.npz", sizes=STUDENT.with_(num_classes=21_843), zero_head=True)
    notes = open_checkpoint(tmp_path / "w.npz").notes
    assert any("classifier of 21843 classes (ImageNet-21k) is all zeros" in note for note in notes)


# Strictness


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blocks.1.norm1.bias": None}, r"missing blocks.1.norm1.bias \[32\]"),
        ({"blocks.0.extra": zeros(3)}, r"unexpected blocks.0.extra \[3\]"),
        ({"blocks.0.mlp.fc2.weight": zeros(64, 32)}, r"fc2.weight is \[64, 32\], expected \[32, 64\]"),
        ({"blocks.2.norm1.bias": zeros(32)}, "depth 2, but the tensors have 3"),
        ({"head.weight": zeros(9, 32)}, r"head.bias is \[7\], expected \[9\]"),
        ({"blocks.1.mlp.fc1.bias": np.zeros(64, np.int32)}, "fc1.bias is int32, expected float16 or bfloat16"),
        ({"dist_token": zeros(1, 1, 32)}, r"has a distillation token \(dist_token\), but its config.json"),
        ({"reg_token": zeros(1, 4, 32)}, r"has a row of register tokens \(reg_token\), but its config.json"),
        ({"fc_norm.weight": zeros(32)}, r"unexpected fc_norm.weight \[32\]"),
        ({"cls_token": None}, r"no class token \(cls_token\), but its config.json means"),
        ({"patch_embed.proj.weight": zeros(32, 12, 8, 8)}, "is for images of 12 channels, expected 3"),
        ({"pos_embed": None}, "no tensor pos_embed"),
        ({"pos_embed": zeros(1, 16)}, r"shape \[1, 16\], expected 3 axes"),
        ({"pos_embed": zeros(1, 19, 32)}, "for 18 patches, which make no square: give the size"),
        ({"blocks.0.attn.q_norm.weight": zeros(8)}, "LayerNorm on queries"),
        ({"blocks.0.ls1.gamma": zeros(32)}, "missing blocks.0.ls2.gamma"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_key_is_used_or_refused(tensors, message, altered):
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(altered("timm", **tensors))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_attention_heads": 7}, "7 attention heads do not divide the width 32"),
        ({"num_attention_heads": "4"}, "num_attention_heads '4', expected a whole number"),
        ({"hidden_size": 64}, "hidden_size 64, but the tensors have 32"),
        ({"num_hidden_layers": 3}, "num_hidden_layers 3, but the tensors have 2"),
        ({"image_size": 64}, "image_size 64, but the tensors have 32"),
        ({"hidden_act": "relu"}, "hidden_act 'relu', expected one of gelu"),
        ({"layer_norm_eps": 0}, "layer_norm_eps 0, expected"),
        ({"model_type": "swin"}, "model_type 'swin', expected one of vit, .*: Swin attends in shifted windows"),
        ({"model_type": "my_vit"}, "model_type 'my_vit', .*: that is another architecture, which vit-export does not"),
        ({"model_type": "dinov3_vit"}, "model_type 'dinov3_vit', but the tensors are those of ViT"),
        ({"hidden_act": ["gelu"]}, "hidden_act .'gelu'., expected one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_contradicts_the_tensors(config, message, altered):
    with pytest.raises(InputError, match=message):
        open_checkpoint(altered("hf", config))


def test_biases_that_an_architecture_lacks_are_zero(altered):
    folder = altered(
        "hf",
        {"qkv_bias": False},
        **{
            f"vit.encoder.layer.{layer}.attention.attention.{part}.bias": None
            for layer in range(2)
            for part in ("query", "key", "value")
        },
    )
    checkpoint = open_checkpoint(folder)
    assert not checkpoint.read("encoder/layer_1/attention/query/bias").any()
    assert checkpoint.read("encoder/layer_1/attention/output/bias").any()


def test_positions_without_a_row_for_the_class_token(altered):
    stored = load_file(ORIGINALS / "timm" / "model.safetensors")["pos_embed"]
    checkpoint = open_checkpoint(altered("timm", pos_embed=stored[:, 1:]))
    found = checkpoint.read("position_embedding")
    assert not found[:, 0].any()
    np.testing.assert_array_equal(found[:, 1:], stored[:, 1:])


def test_a_value_that_is_not_a_number(altered):
    bad = zeros(32)
    bad[5] = np.nan
    checkpoint = open_checkpoint(altered("timm", **{"norm.bias": bad}))
    with pytest.raises(InputError, match=r"norm.bias in .* contains NaN, expected finite numbers"):
        build(checkpoint)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pool": "gap"}, "no class token"), ({"pool": "map"}, "attention pooling")],
    ids=["gap", "map"],
)
def test_googles_other_poolings_are_refused_by_name(options, message, tmp_path):
    fabricated(tmp_path / "w.npz", **options)
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path / "w.npz")


def test_googles_heads_that_do_not_fit(tmp_path):
    arrays = reference_google.fabricate(STUDENT, np.random.default_rng(3))
    key = "Transformer/encoderblock_{}/MultiHeadDotProductAttention_1/query/kernel"
    np.savez(tmp_path / "w.npz", **{**arrays, key.format(1): arrays[key.format(1)].reshape(32, 2, 16)})
    with pytest.raises(InputError, match=r"encoderblock_1/.*query/kernel is \[32, 2, 16\], expected \[32, 4, 8\]"):
        open_checkpoint(tmp_path / "w.npz")
    np.savez(tmp_path / "v.npz", **{**arrays, key.format(0): arrays[key.format(0)][..., :4]})
    with pytest.raises(InputError, match="4 heads of 4, expected heads that make up the width 32"):
        open_checkpoint(tmp_path / "v.npz")


def test_unknown_layouts_and_keras_models(tmp_path):
    np.savez(tmp_path / "w.npz", a=zeros(3), b=zeros(2))
    with pytest.raises(InputError, match=r"no layout that vit-export knows \(it has a, b\): expected that of Google's"):
        open_checkpoint(tmp_path / "w.npz")
    import keras

    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(
        InputError,
        match=r"class 'Sequential', expected .* or a ViT of keras_hub, .*docs/weights.md",
    ):
        open_checkpoint(tmp_path / "other.keras")


def test_models_of_others_that_keras_and_tensorflow_saved_are_told_a_way_out(tmp_path):
    import keras

    own = "expected a VisionTransformer of vit_export or a ViT of keras_hub, the Keras models that are read: copy the"
    inputs = keras.Input((32, 32, 3))
    tokens = keras.layers.Reshape((16, 64))(keras.layers.Conv2D(64, 8, 8)(inputs))
    tokens = keras.layers.MultiHeadAttention(4, 16)(tokens, tokens)
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling1D()(tokens)))
    model.save(tmp_path / "notebook.keras")
    model.save_weights(tmp_path / "notebook.weights.h5")
    for name in ("notebook.keras", "notebook.weights.h5"):
        with pytest.raises(InputError, match=own) as refused:
            open_checkpoint(tmp_path / name)
        assert len(str(refused.value)) < 500 + len(str(tmp_path))

    backbone = build(RandomParameters(toy_spec(num_classes=None).with_(num_layers=1)))
    tuned = keras.Sequential([inputs, backbone, keras.layers.Flatten()])
    tuned.save(tmp_path / "tuned.keras")
    with pytest.raises(
        InputError, match=r"The layer flatten \(Flatten\) cannot be taken apart: expected .*docs/python"
    ):
        open_checkpoint(tmp_path / "tuned.keras")


def test_transformers_tensorflow_and_flax_weights_are_told_how_to_convert(tmp_path):
    import h5py

    folder = tmp_path / "tf"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with h5py.File(folder / "tf_model.h5", "w") as file:
        file.attrs["layer_names"] = [b"vit"]
        file["vit/tf_vi_t_for_image_classification/vit/embeddings/cls_token:0"] = zeros(1, 1, 64)
    for path in (folder, folder / "tf_model.h5"):
        with pytest.raises(InputError, match=r"transformers 4, .*from_pretrained\('its folder', from_tf=True\)"):
            open_checkpoint(path)
    (folder / "tf_model.h5").rename(folder / "flax_model.msgpack")
    with pytest.raises(InputError, match=r"from_pretrained\('its folder', from_flax=True\)"):
        open_checkpoint(folder)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file["dense/dense/kernel:0"] = zeros(2, 2)
    with pytest.raises(InputError, match=r"legacy Keras \.h5 file, expected a VisionTransformer of vit_export"):
        open_checkpoint(tmp_path / "old.h5")
