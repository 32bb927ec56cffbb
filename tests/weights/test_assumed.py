"""What a checkpoint does not say: read from a config wherever one lies, asked for, or assumed aloud."""

import json
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import build
from helpers.originals import ORIGINALS, STUDENT, fabricated, worst
from safetensors.numpy import load_file, save_file

from vit_export.api import create_vit, export
from vit_export.base.errors import InputError
from vit_export.cli.main import main
from vit_export.model.preprocessing import Preprocessing
from vit_export.weights.open import open_checkpoint

WIDE = STUDENT.with_(num_layers=2, hidden_size=192, mlp_size=384, num_heads=12)


def bare(name, folder, file="own.safetensors"):
    """The weights of an original checkpoint alone, without its configs."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ORIGINALS / name / "model.safetensors", folder / file)
    return folder / file


def renamed(source, path, rename):
    """`source` with its keys renamed, at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({rename(key): value for key, value in load_file(source).items()}, path)
    return path


def of_width(path, width, layers=2, mlp=None):
    """A file in timm's layout that says nothing but its shapes."""
    random, mlp = np.random.default_rng(1), mlp or 2 * width
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 17, width), "patch_embed.proj.weight": (width, 3, 8, 8)}
    shapes |= {"patch_embed.proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,)}
    for i in range(layers):
        dense = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        for part, (out, inputs) in (dense | {"mlp.fc1": (mlp, width), "mlp.fc2": (width, mlp)}).items():
            shapes |= {f"blocks.{i}.{part}.weight": (out, inputs), f"blocks.{i}.{part}.bias": (out,)}
        for part in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{part}.weight": (width,), f"blocks.{i}.{part}.bias": (width,)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: random.normal(0, 0.1, shape).astype("f4") for key, shape in shapes.items()}, path)
    return path


# Heads


def test_a_width_that_64_divides_is_no_answer(tmp_path):
    path = of_width(tmp_path / "vit.safetensors", 192)
    with pytest.raises(InputError, match=r"how many attention heads its width of 192 .* num_heads \(3 is usual"):
        open_checkpoint(path)
    checkpoint = open_checkpoint(path, num_heads=12)
    assert checkpoint.spec.num_heads == 12
    assert "heads" not in checkpoint.record.assumed


@pytest.mark.thorough
def test_python_is_told_arguments_that_it_has_and_the_shell_options(tmp_path):
    path = of_width(tmp_path / "vit.safetensors", 32)
    pixels = Preprocessing(32, (0.1, 0.2, 0.3), (0.2, 0.2, 0.2))
    for call in (lambda: create_vit(weights=path), lambda: export(path, tmp_path / "out")):
        with pytest.raises(InputError, match=r": give num_heads, or put") as caught:
            call()
        assert "--" not in str(caught.value)
    told = CliRunner().invoke(main, ["--weights", str(path), "--output", str(tmp_path / "out")])
    assert told.exit_code == 2
    assert ": give --num-heads, or put" in told.output
    with pytest.warns(UserWarning, match="new and untrained"):
        model = create_vit(weights=path, num_heads=4, num_classes=3, preprocessing=pixels, labels=["a", "b", "c"])
    assert model.record.labels == ("a", "b", "c")
    with pytest.raises(InputError, match="2 labels"):
        create_vit("vit_ti16", image_size=32, num_classes=3, labels=["a", "b"])
    assert (model.spec.num_heads, model.spec.num_classes, model.record.preprocessing) == (4, 3, pixels)
    asked = {"num_heads": 4, "image_size": 48, "num_classes": 3, "preprocessing": pixels}
    result = export(path, tmp_path / "out", formats=(), verify=False, **asked)
    spec, known = result.report["spec"], result.report["preprocessing"]
    assert (spec["num_heads"], spec["image_size"], spec["num_classes"]) == (4, 48, 3)
    assert (known["image_size"], known["mean"]) == (48, [0.1, 0.2, 0.3])
    opened = open_checkpoint(path, num_heads=4)
    with pytest.warns(UserWarning, match="new and untrained"):
        assert create_vit(weights=opened, num_classes=2).spec.num_classes == 2
    with pytest.raises(InputError, match="num_heads is 4, which a checkpoint that is open says itself"):
        create_vit(weights=opened, num_heads=4)
    with pytest.raises(InputError, match="not 'vit_s32': leave the variant out"):
        create_vit("vit_s32", weights=opened)
    with pytest.raises(InputError, match="image_size is 48, which a model says itself: leave"):
        export(model, tmp_path / "again", image_size=48)


def test_sizes_that_published_models_divide_differently_are_asked_for(tmp_path):
    """MoCo v3's ViT-S has 12 heads where the table's has 6."""
    path = of_width(tmp_path / "s.safetensors", 384, layers=12, mlp=1536)
    with pytest.raises(InputError, match=r"num_heads \(6 is usual, 12 in MoCo v3's ViT-S\)"):
        open_checkpoint(path)
    assert open_checkpoint(path, num_heads=12).spec.num_heads == 12


def test_heads_of_the_table_are_assumed_aloud_unless_its_row_was_named(tmp_path):
    path = of_width(tmp_path / "ti.safetensors", 192, layers=12, mlp=768)
    assert open_checkpoint(path).record.assumed["heads"] == "3 attention heads, as vit_ti16 has"


@pytest.mark.parametrize(
    ("architecture", "width", "heads"),
    [("test_vit", 64, 2), ("vit_giant_patch14_224", 1408, 16), ("vit_gigantic_patch14_224", 1664, 16),
     ("deit3_medium_patch16_224", 512, 8)],
)  # fmt: skip
def test_an_architecture_of_timm_says_its_heads(tmp_path, architecture, width, heads):
    path = of_width(tmp_path / "m" / "model.safetensors", width, layers=1, mlp=8)
    (path.parent / "config.json").write_text(json.dumps({"architecture": architecture}))
    checkpoint = open_checkpoint(path.parent)
    assert checkpoint.spec.num_heads == heads
    assert not {"heads", "arithmetic"} & checkpoint.record.assumed.keys()


@pytest.mark.parametrize("architecture", ["vit_base_patch16_224", "my_vit", 3])
def test_an_architecture_that_is_not_these_tensors_says_nothing(tmp_path, architecture):
    path = of_width(tmp_path / "m" / "model.safetensors", 192)
    (path.parent / "config.json").write_text(json.dumps({"architecture": architecture}))
    with pytest.raises(InputError, match="give num_heads"):
        open_checkpoint(path.parent)
    assert "arithmetic" in open_checkpoint(path.parent, num_heads=6).record.assumed


def test_transformers_defaults_hold_where_its_config_is_there(altered):
    told = open_checkpoint(altered("hf", {"num_attention_heads": 4, "layer_norm_eps": None, "hidden_act": None}))
    assert (told.spec.num_heads, told.spec.layer_norm_epsilon, told.spec.gelu) == (4, 1e-12, "erf")
    assert not told.record.assumed


# Configs wherever they lie


@pytest.mark.parametrize("name", ["config.json", "vit_config.json", "own.json", "config (1).json"])
def test_a_config_beside_a_file_of_any_name_is_read(tmp_path, name, golden):
    path = bare("hf", tmp_path)
    shutil.copy(ORIGINALS / "hf" / "config.json", tmp_path / name)
    shutil.copy(ORIGINALS / "hf" / "preprocessor_config.json", tmp_path / "prep.json")
    (tmp_path / "labels.json").write_text('["a", "b"]')
    checkpoint = open_checkpoint(path)
    assert checkpoint.spec == open_checkpoint(ORIGINALS / "hf").spec
    assert not checkpoint.record.assumed
    assert any(name in note for note in checkpoint.notes) == (name != "config.json")
    assert worst(build(checkpoint).predict_output(golden["images"]), golden["hf/logits"]) < 1e-4


def test_a_config_among_other_weights_is_not_taken(tmp_path):
    path = bare("hf", tmp_path)
    bare("timm", tmp_path, "another.safetensors")
    shutil.copy(ORIGINALS / "hf" / "config.json", tmp_path / "config.json")
    with pytest.raises(InputError, match="give num_heads"):
        open_checkpoint(path)
    shutil.copy(ORIGINALS / "hf" / "config.json", tmp_path / "own_config.json")
    assert open_checkpoint(path).spec.num_heads == 4


def test_two_configs_are_one_too_many(tmp_path):
    path = bare("hf", tmp_path)
    for name in ("a.json", "b.json"):
        shutil.copy(ORIGINALS / "hf" / "config.json", tmp_path / name)
    with pytest.raises(InputError, match=r"several files that could describe the weights \(a.json, b.json\)"):
        open_checkpoint(path)


def test_weights_alone_of_transformers_are_assumed_to_be_its_default(tmp_path):
    path = bare("hf", tmp_path)
    with pytest.raises(InputError, match="give num_heads"):
        open_checkpoint(path)
    assert open_checkpoint(path, num_heads=4).record.assumed.keys() == {
        "image size", "arithmetic", "scaling", "resizing",
    }  # fmt: skip


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_what_is_given_wins_over_a_file_that_cannot_be_read(tmp_path, content):
    path = bare("hf", tmp_path, "model.safetensors")
    shutil.copy(ORIGINALS / "hf" / "config.json", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(
        InputError, match=r"With Preprocessing.mean, Preprocessing.std and Preprocessing.resize it is not needed"
    ):
        open_checkpoint(path)
    pixels = {"mean": (0.1, 0.2, 0.3), "std": (0.2, 0.2, 0.2), "resize": "squash"}
    checkpoint = open_checkpoint(path, pixels=pixels)
    assert checkpoint.preprocessing == Preprocessing(32, (0.1, 0.2, 0.3), (0.2, 0.2, 0.2))
    assert "scaling" not in checkpoint.record.assumed
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="With num_heads it is not needed"):
        open_checkpoint(path, pixels=pixels)
    assert open_checkpoint(path, num_heads=4, pixels=pixels).record.assumed.keys() == {"image size", "arithmetic"}


@pytest.mark.parametrize("what", ["folder", "pipe"])
def test_a_config_that_is_no_file_is_an_error(tmp_path, what):
    path = bare("hf", tmp_path, "model.safetensors")
    (os.mkdir if what == "folder" else os.mkfifo)(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config.json cannot be read"):
        open_checkpoint(path)


# Arithmetic


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"act_layer": "relu"}, "act_layer 'relu', expected 'gelu' or 'gelu_tanh'"),
        ({"act_layer": "silu"}, "act_layer 'silu'"),
        ({"global_pool": "max"}, "global_pool 'max', expected 'token' or 'avg' or 'map'"),
        ({"global_pool": "avgmax"}, "global_pool 'avgmax', expected 'token' or 'avg' or 'map'"),
        ({"global_pool": "prr"}, "global_pool 'prr', expected 'token' or 'avg' or 'map'"),
        ({"global_pool": "avg", "pool_include_prefix": True}, "takes the mean of all tokens"),
        ({"block_fn": "ResPostBlock"}, "block_fn 'ResPostBlock', expected none of that name"),
        ({"norm_layer": "rmsnorm"}, "norm_layer 'rmsnorm'"),
        ({"class_token": False}, "has a class token .*, but its config.json means class_token False"),
        ({"attn_layer": "diff"}, "attn_layer 'diff'"),
        ({"epsilon": 0.1}, "epsilon 0.1, expected none of that name"),
        ({"dynamic_img_pad": True}, "dynamic_img_pad True, expected False"),
        ({"rope_type": "mixed"}, "rope_type 'mixed', expected 'dinov3'"),
        ({"rope": True}, "rope True, expected none"),
    ],
    ids=str,
)
def test_arguments_of_timm_that_make_another_model(altered, arguments, message):
    known = json.loads((ORIGINALS / "timm" / "config.json").read_text())["model_args"]
    with pytest.raises(InputError, match=message):
        open_checkpoint(altered("timm", {"model_args": {**known, **arguments}}))


def test_timms_other_gelu_is_built(altered):
    known = json.loads((ORIGINALS / "timm" / "config.json").read_text())["model_args"]
    changed = altered("timm", {"model_args": {**known, "act_layer": "gelu_tanh", "drop_path_rate": 0.1}})
    assert open_checkpoint(changed).spec.gelu == "tanh"


def test_another_function_of_the_pooler_is_said(tmp_path, altered):
    checkpoint = open_checkpoint(altered("hf_model", {"pooler_act": "relu"}))
    assert checkpoint.spec.pre_logits_size is None
    assert "pooler_act 'relu', expected 'tanh'" in checkpoint.pooler_problem
    assert open_checkpoint(ORIGINALS / "hf_model").pooler_problem is None


# Pixels


def test_a_processor_of_another_size_is_told(altered):
    folder = altered("hf", preprocessor={"size": {"height": 64, "width": 64}})
    text = open_checkpoint(folder).record.assumed["image size"]
    assert text == "images of 32 pixels, where preprocessor_config.json says 64 (--image-size 64)"
    for size in (32, 64):
        assert not open_checkpoint(folder, image_size=size).record.assumed


def test_a_model_of_another_size_than_its_architecture_is_told(altered):
    known = json.loads((ORIGINALS / "timm" / "config.json").read_text())
    arguments = {name: value for name, value in known["model_args"].items() if name != "img_size"}
    pixels = {**known["pretrained_cfg"], "input_size": [3, 48, 48]}
    checkpoint = open_checkpoint(altered("timm", {"model_args": arguments, "pretrained_cfg": pixels}))
    assert checkpoint.record.assumed == {
        "image size": "images of 32 pixels, where config.json says 48 (--image-size 48)"
    }


@pytest.mark.parametrize(
    ("changes", "resize"),
    [
        ({"size": 40}, "squash"),
        ({"size": 40, "default_to_square": False, "do_center_crop": True, "crop_size": 32}, "shortest"),
        (
            {
                "size": 32,
                "feature_extractor_type": "CLIPFeatureExtractor",
                "image_processor_type": None,
                "crop_size": 32,
            },
            "shortest",
        ),
    ],
)
def test_a_size_of_one_number_is_what_its_processor_makes_of_it(altered, changes, resize):
    assert open_checkpoint(altered("hf", preprocessor=changes)).preprocessing.resize == resize


def test_images_that_are_not_square_are_no_square_ones(altered):
    assert open_checkpoint(altered("hf", {"image_size": [16, 64]})).spec.image_size == (16, 64)


@pytest.mark.parametrize(
    ("known", "mean", "std"),
    [
        ({"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}, 0.5, 0.5),
        ({"rescale_factor": 1 / 255, "image_mean": 0.25, "image_std": 0.5}, 0.25, 0.5),
        ({"rescale_factor": 1, "do_normalize": False}, 0, 1 / 255),
    ],
)
def test_scaling_of_any_factor_is_brought_to_mean_and_std(altered, known, mean, std):
    found = open_checkpoint(altered("hf", preprocessor=known)).preprocessing
    np.testing.assert_allclose((found.mean, found.std), ([mean] * 3, [std] * 3), rtol=1e-6)


def test_a_processor_inside_a_processors_config(tmp_path):
    path = bare("hf", tmp_path, "model.safetensors")
    shutil.copy(ORIGINALS / "hf" / "config.json", tmp_path)
    known = {"image_processor": {"image_mean": [0.1, 0.2, 0.3], "size": {"height": 32, "width": 32}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(known))
    checkpoint = open_checkpoint(path)
    assert checkpoint.preprocessing.mean == (0.1, 0.2, 0.3)
    assert not checkpoint.record.assumed


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("vit_b_16-c867db91.safetensors", ("shortest", 0.875, "bilinear")),
        ("vit_b_16_lc_swag-4e70ced5.safetensors", ("shortest", 1.0, "bicubic")),
        ("swagger.safetensors", ("shortest", 0.875, "bilinear")),
    ],
)
def test_torchvisions_transforms_belong_to_its_weights(tmp_path, file, expected):
    pixels = open_checkpoint(bare("torchvision", tmp_path, file), num_heads=4).preprocessing
    assert (pixels.resize, pixels.crop_fraction, pixels.interpolation) == expected


@pytest.mark.parametrize(
    ("spec", "expected"), [({"image_size": 384}, 384), ({"image_size": 512}, 512), ({"num_layers": 24}, 242), ({}, 256)]
)
def test_torchvisions_transforms_by_size(spec, expected):
    from vit_export.model.spec import ViTSpec
    from vit_export.weights.layouts.sizes import Hints
    from vit_export.weights.layouts.torchvision import resizing

    of = ViTSpec.of("vit_b16").with_(**spec)
    fields = resizing(Hints(), of.image_size, of.num_layers, of.patch_size)
    assert Preprocessing(of.image_size, **fields).resized_side == expected


def test_given_pixels_are_not_assumed(tmp_path):
    path = tmp_path / "student.npz"
    fabricated(path)
    assert open_checkpoint(path).record.assumed.keys() == {"image size", "scaling", "resizing"}
    halves = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert open_checkpoint(path, pixels=halves, image_size=32).record.assumed.keys() == {"resizing"}
    assert not open_checkpoint(path, pixels={**halves, "resize": "squash"}, image_size=32).record.assumed
    one = open_checkpoint(path, pixels={"mean": (0.1, 0.1, 0.1)})
    assert (one.preprocessing.mean[0], one.preprocessing.std[0]) == (0.1, 0.5)
    assert "scaling" in one.record.assumed
    described = one.described(Preprocessing(32), None, None)
    assert described.record.assumed.keys() == {"image size"}


# Labels


@pytest.mark.parametrize(
    ("name", "imagenet"),
    [
        ("train1k/weights", False),
        ("skin1k", False),
        ("vit.in1k", True),
        ("b16--imagenet2012-x", True),
        ("a_in1k", True),
    ],
)
def test_imagenets_labels_rest_on_a_word_of_the_files_own_name(tmp_path, name, imagenet):
    path = tmp_path / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    fabricated(path, sizes=STUDENT.with_(num_classes=1000))
    checkpoint = open_checkpoint(path)
    assert (checkpoint.labels is not None) == imagenet
    assert ("labels" in checkpoint.record.assumed) == imagenet
    assert "labels" not in checkpoint.described(labels=tuple(map(str, range(1000)))).record.assumed
    assert "labels" not in checkpoint.adapted(checkpoint.spec.with_(num_classes=3)).record.assumed


def test_what_one_output_means_is_not_assumed_of_another_classifier(tmp_path):
    fabricated(tmp_path / "one.npz", sizes=STUDENT.with_(num_classes=1))
    checkpoint = open_checkpoint(tmp_path / "one.npz")
    assert "answer" in checkpoint.record.assumed
    left = checkpoint.record.assumed.keys() - {"answer"}
    for classes in (None, 3):
        assert checkpoint.adapted(checkpoint.spec.with_(num_classes=classes)).record.assumed.keys() == left


# What was refused


@pytest.mark.parametrize("prefix", ["module.", "model.", "vit.", "_orig_mod.module."])
def test_a_wrapped_model_of_transformers_keeps_its_classifier(tmp_path, prefix, golden):
    shutil.copytree(ORIGINALS / "hf", tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    renamed(path, path, lambda key: prefix + key)
    found = build(open_checkpoint(path.parent)).predict_output(golden["images"])
    assert worst(found, golden["hf/logits"]) < 1e-4


@pytest.mark.parametrize(("name", "key"), [("torchvision", "heads.head"), ("timm", "head"), ("hf", "classifier")])
@pytest.mark.parametrize("new", ["{}", "{}.0", "{}.1"])
def test_one_dense_is_a_classifier_whatever_it_is_called(tmp_path, name, key, new, golden):
    stem = "heads" if name == "torchvision" else key
    shutil.copytree(ORIGINALS / name, tmp_path / name)
    path = tmp_path / name / "model.safetensors"
    renamed(path, path, lambda old: old.replace(f"{key}.", f"{new.format(stem)}.") if old.startswith(key) else old)
    checkpoint = open_checkpoint(path.parent, num_heads=4)
    assert worst(build(checkpoint).predict_output(golden["images"]), golden[f"{name}/logits"]) < 1e-4
    changed = new != "{}" or name == "torchvision"
    assert ("classifier" in checkpoint.record.assumed) == changed


def test_a_classifier_of_two_dense_is_named(altered):
    more = {"head.2.weight": np.ones((3, 7), "f4"), "head.2.bias": np.ones(3, "f4")}
    with pytest.raises(
        InputError, match=r"a classifier that is more than one Dense \(head.2.bias, .*run the classifier"
    ):
        open_checkpoint(altered("timm", **more))


@pytest.mark.parametrize(("first", "second"), [("model.", "ema.module."), ("student.backbone.", "teacher.backbone.")])
def test_two_models_in_one_file_are_named(tmp_path, first, second):
    stored = load_file(ORIGINALS / "timm" / "model.safetensors")
    save_file({p + key: value for p in (first, second) for key, value in stored.items()}, tmp_path / "a.safetensors")
    names = ", ".join(repr(name) for name in sorted((first, second)))
    with pytest.raises(
        InputError, match=rf"holds 2 models, whose keys start with {names}: save the tensors of the one"
    ):
        open_checkpoint(tmp_path / "a.safetensors")


def test_an_adapter_is_told_from_a_model(tmp_path):
    layer = "base_model.model.vit.encoder.layer.0.attention.attention.query"
    save_file(
        {f"{layer}.lora_A.weight": np.ones((4, 64), "f4"), f"{layer}.lora_B.weight": np.ones((64, 4), "f4")},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(InputError, match=r"LoRA adapter without its model.*merge_and_unload"):
        open_checkpoint(tmp_path)
