"""Encoders of every family in transformers' layout: the library's own outputs, strictness, refusals by name."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from conftest import build
from helpers.originals import worst
from safetensors.numpy import load_file, save_file

from vit_export.base.errors import InputError
from vit_export.model.parameters import parameter_specs
from vit_export.model.preprocessing import Preprocessing
from vit_export.weights.open import open_checkpoint

FAMILIES = Path(__file__).parents[1] / "fixtures" / "transformers"

MODELS = (
    *("dinov2", "dinov2_classifier", "dinov2_registers", "dinov3", "clip", "clip_projected", "clip_vision"),
    *("siglip", "siglip_vision", "siglip_classifier", "deit", "deit_classifier", "deit_distilled"),
    *("vit_mae", "vit_msn"),
)
SHOWN = {"siglip": 18}  # pixels, of which the last two fill no patch
ZERO = np.zeros(3, np.float32)


@pytest.fixture(scope="module")
def outputs():
    with np.load(FAMILIES / "expected.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture
def changed(tmp_path):
    """A copy of a checkpoint with tensors and fields of its configs changed (None removes)."""

    def change(name, config=None, rename=None, dtype=None, preprocessor=None, **tensors):
        folder = tmp_path / name
        shutil.copytree(FAMILIES / name, folder, dirs_exist_ok=True)
        stored = load_file(folder / "model.safetensors") | tensors
        if rename is not None:
            stored = {rename(key): value for key, value in stored.items()}
        stored = {key: value for key, value in stored.items() if key and value is not None}
        save_file(
            {key: np.asarray(value, dtype or value.dtype) for key, value in stored.items()},
            folder / "model.safetensors",
        )
        for file, fields in (("config.json", config), ("preprocessor_config.json", preprocessor)):
            if fields is not None:
                path = folder / file
                known = json.loads(path.read_text()) if path.exists() else {}
                path.write_text(json.dumps({k: v for k, v in {**known, **fields}.items() if v is not None}))
        return folder

    return change


def shown(images, size):
    """The images as the library was shown them, of `size` pixels, what no patch has being other than at first."""
    wide = np.zeros((len(images), size, size, 3), np.float32)
    wide[:, :16, :16] = images
    return wide


def differences(folder, name, outputs, **options):
    """The worst difference from the library, for the model's own image size and for images of 24 x 20 pixels."""
    checkpoint = open_checkpoint(folder, **options)
    size = SHOWN.get(name, 16)
    kind = "features" if checkpoint.spec.num_classes is None else "logits"
    found = build(sized(checkpoint, size)).predict_output(shown(outputs["images"], size))
    other = build(sized(checkpoint, (24, 20))).predict_output(outputs["other_images"])
    return worst(found, outputs[f"{name}/{kind}"]), worst(other, outputs[f"{name}/other"])


def sized(checkpoint, size):
    return checkpoint.adapted(checkpoint.spec.with_(image_size=size))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_the_library_at_two_sizes(name, outputs):
    assert max(differences(FAMILIES / name, name, outputs)) < 5e-6


@pytest.mark.thorough
@pytest.mark.parametrize("name", MODELS)
def test_files_of_both_formats_compute_what_the_library_does(name, outputs, tmp_path):
    from tflite.test_tflite import run

    from vit_export.onnx import write_onnx
    from vit_export.tflite.write import write_tflite

    checkpoint = open_checkpoint(FAMILIES / name)
    checkpoint = sized(checkpoint, SHOWN.get(name, 16))
    images = shown(outputs["images"], SHOWN.get(name, 16))
    wanted = outputs[f"{name}/features" if checkpoint.spec.num_classes is None else f"{name}/logits"]
    write_tflite(checkpoint, checkpoint.record, tmp_path / "model.tflite")
    assert worst(run(tmp_path / "model.tflite", images), wanted) < 1e-5
    write_onnx(checkpoint, checkpoint.record, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    found = np.concatenate([session.run(None, {entry.name: image[None]})[0] for image in images])
    assert worst(found, wanted) < 1e-5


SHORTER = {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj",
           "attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj"}  # fmt: skip
VIT = {**SHORTER, "encoder.layer.": "layers.", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}


def by(names):
    def rename(key):
        for old, new in names.items():
            key = key.replace(old, new)
        return key

    return rename


@pytest.mark.parametrize(
    ("name", "rename"),
    [
        ("deit_distilled", by(VIT)),
        ("vit_mae", lambda key: by(VIT)(key) if key.startswith("vit.") else key),
        ("dinov2_registers", by(SHORTER)),
        ("dinov3", lambda key: key.replace("layer.", "model.layer.", 1) if key.startswith("layer.") else key),
        ("clip_vision", lambda key: f"vision_model.{key}"),
        ("siglip_vision", lambda key: f"vision_model.{key}"),
        ("clip", lambda key: f"module.{key}"),
        ("siglip", lambda key: f"_orig_mod.{key}"),
        ("dinov2_classifier", lambda key: f"module.{key}"),
        ("deit_distilled", lambda key: f"module.{key}"),
        ("dinov3", lambda key: f"module.backbone.{key}"),
        ("dinov2", lambda key: f"dinov2.{key}"),
    ],
)
def test_names_of_both_versions_and_of_wrappers(name, rename, changed):
    before, after = open_checkpoint(FAMILIES / name), open_checkpoint(changed(name, rename=rename))
    assert after.spec == before.spec
    for parameter in parameter_specs(before.spec):
        np.testing.assert_array_equal(after.read(parameter.name), before.read(parameter.name))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["dinov2_registers", "clip_projected", "siglip", "deit_distilled"])
def test_half_precision_is_the_same_model_of_rounded_weights(name, dtype, changed, tmp_path):
    half = open_checkpoint(changed(name, dtype=dtype))
    stored = load_file(FAMILIES / name / "model.safetensors")
    rounded = {key: value.astype(dtype).astype(np.float32) for key, value in stored.items()}
    whole = shutil.copytree(FAMILIES / name, tmp_path / "whole")
    save_file(rounded, whole / "model.safetensors")
    whole = open_checkpoint(whole)
    for parameter in parameter_specs(half.spec):
        np.testing.assert_array_equal(half.read(parameter.name), whole.read(parameter.name))


def test_in_shards(tmp_path):
    stored = load_file(FAMILIES / "clip" / "model.safetensors")
    shards = {f"model-0000{n}-of-00002.safetensors": sorted(stored)[n - 1 :: 2] for n in (1, 2)}
    for name, keys in shards.items():
        save_file({key: stored[key] for key in keys}, tmp_path / name)
    places = {key: name for name, keys in shards.items() for key in keys}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    shutil.copy(FAMILIES / "clip" / "config.json", tmp_path)
    assert open_checkpoint(tmp_path).spec == open_checkpoint(FAMILIES / "clip").spec


def test_what_lies_before_a_projection_or_a_classifier(outputs):
    projected = open_checkpoint(FAMILIES / "clip_projected")
    assert (projected.spec.pre_logits_size, projected.spec.pre_logits_activation) == (12, "linear")
    plain = build(projected.adapted(projected.spec.with_(pre_logits_size=None)))
    assert worst(plain.predict_output(outputs["images"]), outputs["clip_projected/class_token"]) < 5e-6
    registers = sized(open_checkpoint(FAMILIES / "dinov2_registers"), 16)
    plain = build(registers.adapted(registers.spec.with_(num_classes=None)))
    assert worst(plain.predict_output(outputs["images"]), outputs["dinov2_registers/features"]) < 5e-6


def test_positions_are_resampled_as_each_family_does_it():
    """DINOv2 with registers antialiases, the others do not; the outputs at another size show it, too."""
    rules = {name: open_checkpoint(FAMILIES / name).record.positions for name in MODELS}
    assert {name for name, rule in rules.items() if rule == "bicubic_antialiased"} == {"dinov2_registers"}
    assert {rule for name, rule in rules.items() if name != "dinov2_registers"} == {"bicubic"}


def test_labels_of_a_whole_models_config():
    assert open_checkpoint(FAMILIES / "siglip_classifier").labels == tuple("abcde")


def test_what_is_left_out_is_told():
    clip, mae = open_checkpoint(FAMILIES / "clip").notes, open_checkpoint(FAMILIES / "vit_mae").notes
    assert any(note == "Left out: the text tower, which takes no images (22 tensors)." for note in clip)
    assert any("the decoder, which is used in pre-training alone" in note for note in mae)
    assert any("No patches are masked" in note for note in mae)
    assert not open_checkpoint(FAMILIES / "clip_projected").notes


def test_defaults_of_a_towers_config(changed):
    """Configs of whole models name of a tower what differs from the default of its class."""
    config = json.loads((FAMILIES / "siglip" / "config.json").read_text())
    silent = {"model_type": "siglip_vision_model", "image_size": 18, "num_attention_heads": 2}
    folder = changed("siglip", {"vision_config": silent, "text_config": None})
    assert open_checkpoint(folder).spec == open_checkpoint(FAMILIES / "siglip").spec
    assert not open_checkpoint(folder).record.assumed
    del silent["num_attention_heads"]
    with pytest.raises(InputError, match="12 attention heads do not divide the width 16"):
        open_checkpoint(changed("siglip", {**config, "vision_config": silent}))


def test_clips_older_part_of_a_config_replaces_the_newer(changed):
    assert open_checkpoint(FAMILIES / "clip").spec.gelu == "erf"
    older = {"num_attention_heads": 4}
    spec = open_checkpoint(changed("clip", {"vision_config_dict": older})).spec
    assert (spec.num_heads, spec.gelu) == (4, "quick")


def test_siglip_without_its_pooling_head(changed, outputs):
    keys = [key for key in load_file(FAMILIES / "siglip_vision" / "model.safetensors") if key.startswith("head.")]
    folder = changed("siglip_vision", {"vision_use_head": False}, **dict.fromkeys(keys))
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.spec.pooling, checkpoint.spec.output_size) == ("mean", 16)
    assert "the mean of the patches as features" in checkpoint.record.assumed["pooling"]
    classifier = open_checkpoint(FAMILIES / "siglip_classifier")
    assert classifier.spec.pooling == "mean"
    assert "pooling" not in classifier.record.assumed


# Without a config


@pytest.mark.parametrize("name", ["dinov2", "dinov2_registers", "clip", "siglip", "deit", "deit_distilled", "vit_mae"])
def test_keys_alone_tell_the_family(name, tmp_path):
    shutil.copy(FAMILIES / name / "model.safetensors", tmp_path)
    told = open_checkpoint(FAMILIES / name).spec
    size = told.image_size if told.ignores_border else None
    found = open_checkpoint(tmp_path / "model.safetensors", num_heads=2, image_size=size)
    gelu = "quick" if name == "clip" else told.gelu
    assert found.spec == told.with_(gelu=gelu)
    assert found.record.assumed["arithmetic"].startswith("transformers' ")
    assert found.notes[: len(open_checkpoint(FAMILIES / name).notes)] == open_checkpoint(FAMILIES / name).notes


def test_a_config_without_an_image_size_means_224(changed):
    folder = changed("dinov3", {"image_size": None}, preprocessor={"size": None})
    assert open_checkpoint(folder).spec.image_size == 224


def test_keys_of_dinov3_do_not_tell_the_size_of_its_images(tmp_path):
    shutil.copy(FAMILIES / "dinov3" / "model.safetensors", tmp_path)
    with pytest.raises(InputError, match="does not say for images of which size it is: give image_size"):
        open_checkpoint(tmp_path / "model.safetensors", num_heads=2)
    found = open_checkpoint(tmp_path / "model.safetensors", num_heads=2, image_size=16)
    assert found.spec == open_checkpoint(FAMILIES / "dinov3").spec


def test_clips_activation_is_assumed_aloud(tmp_path):
    shutil.copy(FAMILIES / "clip" / "model.safetensors", tmp_path)
    told = open_checkpoint(tmp_path / "model.safetensors", num_heads=2).record.assumed["arithmetic"]
    assert told == "transformers' quick_gelu (as OpenAI's models; LAION's have the exact GELU) and epsilon 1e-05"


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "deit"])
def test_heads_that_all_models_of_a_family_share_are_assumed_aloud(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    stored = load_file(FAMILIES / name / "model.safetensors")
    wide = {}
    for key, value in stored.items():
        shape = [{16: 128, 24: 192, 32: 256}.get(side, side) if axis < 2 or len(value.shape) == 3 else side
                 for axis, side in enumerate(value.shape)]  # fmt: skip
        wide[key] = np.zeros(shape, np.float32)
    save_file(wide, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder / "model.safetensors", image_size=16 if name == "dinov3" else None)
    assert checkpoint.spec.num_heads == 2
    assert checkpoint.record.assumed["heads"].startswith("2 attention heads of 64, as every D")


# Strictness


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("dinov2", {"encoder.layer.0.extra": ZERO}, r"unexpected encoder.layer.0.extra \[3\]"),
        ("dinov2", {"encoder.layer.1.layer_scale2.lambda1": None}, r"missing encoder.layer.1.layer_scale2.lambda1"),
        ("dinov3", {"layer.0.attention.k_proj.bias": np.zeros(16, "f4")}, "unexpected layer.0.attention.k_proj.bias"),
        ("clip", {"vision_model.extra": ZERO}, "unexpected vision_model.extra"),
        ("clip", {"vision_model.pre_layrnorm.bias": None}, "missing vision_model.pre_layrnorm.bias"),
        ("clip", {"visual_projection.bias": np.zeros(12, "f4")}, "unexpected visual_projection.bias"),
        ("siglip", {"vision_model.head.extra": ZERO}, "unexpected vision_model.head.extra"),
        ("siglip", {"vision_model.head.attention.in_proj_bias": None}, "missing vision_model.head.attention.in_proj"),
        ("deit", {"embeddings.distillation_token": None}, "missing embeddings.distillation_token"),
        ("deit_distilled", {"classifier.weight": np.zeros((3, 16), "f4")}, "unexpected cls_classifier"),
        ("deit_distilled", {"cls_classifier.weight": None, "cls_classifier.bias": None}, "not hold two classifiers"),
        ("deit_distilled", {"cls_classifier.weight": np.zeros((4, 16), "f4")}, "not hold two classifiers"),
        ("vit_mae", {"decoder_two.weight": ZERO}, "unexpected decoder_two.weight"),
        ("vit_msn", {"decoder.0.weight": ZERO}, "has a decoder"),
        ("dinov2", {"encoder.layer.0.mlp.weights_in.weight": ZERO}, r"has a gated MLP \(SwiGLU\)"),
        ("vit_msn", {"vit.encoder.layer.0.attention.relative_position_bias_table": ZERO}, "has relative positions"),
        ("siglip", {"vision_model.embeddings.patch_embedding.weight": np.zeros((16, 48), "f4")}, r"\(NaFlex\)"),
        ("clip_vision", {"embeddings.patch_embedding.weight": np.zeros((16, 1, 4, 4), "f4")}, "num_channels 3, but"),
    ],
)  # fmt: skip
def test_every_key_is_used_or_excused_or_refused(name, tensors, message, changed):
    with pytest.raises(InputError, match=message) as refused:
        open_checkpoint(changed(name, **tensors))
    assert "\n" not in str(refused.value)


def test_a_model_of_grey_images_takes_the_colours_they_are_made_of(changed):
    key = "embeddings.patch_embedding.weight"
    one = np.ascontiguousarray(load_file(FAMILIES / "clip_vision" / "model.safetensors")[key][:, :1])
    scaled = {"image_mean": [0.5], "image_std": [0.25]}
    checkpoint = open_checkpoint(changed("clip_vision", {"num_channels": 1}, preprocessor=scaled, **{key: one}))
    assert (checkpoint.preprocessing.mean, checkpoint.preprocessing.std) == ((0.5,) * 3, (0.25,) * 3)
    assert "takes grey images" in " ".join(checkpoint.notes)
    kernel = checkpoint.read("patch_embedding/kernel")
    np.testing.assert_allclose(kernel.sum(axis=2), one[:, 0].transpose(1, 2, 0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(kernel[:, :, 1] * 0.299, kernel[:, :, 0] * 0.587, rtol=1e-5)
    coloured = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25] * 3}
    with pytest.raises(InputError, match="give those of grey three times"):
        open_checkpoint(changed("clip_vision", {"num_channels": 1}, preprocessor=coloured, **{key: one}))


def test_a_dinov3_without_registers(changed):
    none = {"embeddings.register_tokens": np.zeros((1, 0, 16), "f4")}
    assert open_checkpoint(changed("dinov3", {"num_register_tokens": 0}, **none)).spec.num_registers == 0


def test_buffers_of_older_versions_are_left_out(changed):
    numbers = np.arange(17)[None]
    checkpoint = open_checkpoint(changed("clip", **{"vision_model.embeddings.position_ids": numbers}))
    assert checkpoint.spec == open_checkpoint(FAMILIES / "clip").spec


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("dinov2", {"use_swiglu_ffn": True}, r"use_swiglu_ffn True, expected False: DINOv2 with a gated MLP"),
        ("dinov2", {"mlp_ratio": 4}, "mlp_ratio 4, expected 2, as the tensors have it"),
        ("dinov2", {"mlp_ratio": 1e308}, r"mlp_ratio 1e\+308, expected 2"),
        ("deit", {"head_dim": 4}, "head_dim 4, but the tensors have 8"),
        ("dinov2", {"layer_norm_eps": 2}, "layer_norm_eps 2, expected a small positive number"),
        ("dinov2_registers", {"num_register_tokens": 4}, "num_register_tokens 4, but the tensors have 3"),
        ("dinov3", {"use_gated_mlp": True}, "use_gated_mlp True, expected False: DINOv3 with a gated MLP"),
        ("dinov3", {"rope_theta": 10000.0}, "rope_theta 10000.0, expected 100: DINOv3 with rotary"),
        ("dinov3", {"query_bias": False}, "query_bias False, expected True: DINOv3 with no bias in its query layers"),
        ("dinov3", {"hidden_act": "silu"}, "hidden_act 'silu', expected one of gelu"),
        ("clip_projected", {"projection_dim": 16}, "projection_dim 16, but the tensors have 12"),
        ("clip_projected", {"image_size": 32}, "image_size 32, but the tensors have 16"),
        ("clip", {"vision_config": [1]}, r"vision_config \[1\], expected an object"),
        ("clip", {"model_type": "siglip"}, "model_type 'clip_vision_model', expected 'siglip_vision_model'"),
        ("siglip_vision", {"vision_use_head": False}, "vision_use_head False, but the tensors have True"),
        ("siglip_vision", {"model_type": "dinov2"}, "model_type 'dinov2', but the tensors are those of SigLIP"),
        ("deit", {"hidden_size": 32}, "hidden_size 32, but the tensors have 16"),
    ],
)  # fmt: skip
def test_a_config_that_another_model_has(name, config, message, changed):
    with pytest.raises(InputError, match=message):
        open_checkpoint(changed(name, config))


def test_clips_classifier_is_refused_with_its_reason():
    with pytest.raises(
        InputError, match=r"CLIPForImageClassification, .* before the last LayerNorm, which is not built"
    ):
        open_checkpoint(FAMILIES / "clip_classifier")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("beit", "BEiT has relative positions"),
        ("data2vec-vision", "BEiT has relative positions"),
        ("eva02", "a gated MLP"),
        ("siglip2", r"SigLIP 2 for images of any shape \(NaFlex\) is not built; the models of a fixed size are"),
        ("swinv2", "shifted windows"),
        ("mobilevit", "a convolutional network with a few Transformer layers"),
        ("sam_vision_model", "SAM attends in windows"),
        ("dinov3_convnext", "no Vision Transformer"),
        ("clip_text_model", "it takes text, no images"),
        ("llava", "another architecture, which vit-export does not build"),
        (7, "another architecture"),
    ],
)
def test_other_architectures_are_refused_by_their_names(kind, reason, changed):
    with pytest.raises(
        InputError, match=f"says model_type {kind!r}, expected one of vit, .*siglip: .*{reason}"
    ) as told:
        open_checkpoint(changed("dinov2", {"model_type": kind}))
    assert len(str(told.value)) < 500
    if isinstance(kind, str):
        with pytest.raises(InputError, match=f"model_type {kind!r}, expected 'siglip_vision_model': .*{reason}"):
            open_checkpoint(changed("siglip", {"vision_config": {"model_type": kind}}))


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("visual.class_embedding", "CLIP as OpenAI and open_clip store it"),
        ("vision_encoder.layers.0.attn.rel_pos_h", "SAM or ViTDet"),
        ("convnext.encoder.stages.0.layers.0.dwconv.weight", "ConvNeXt or another convolutional network"),
        ("swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table", "BEiT or Swin"),
        ("mobilevit.conv_stem.convolution.weight", "a convolutional network"),
        ("image_encoder.model.network.0.0.token_mixer.weight", "MobileCLIP or FastViT"),
    ],
)
def test_other_architectures_are_refused_by_their_keys(key, what, tmp_path):
    save_file({key: ZERO, "a": ZERO}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=f"holds {what}"):
        open_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    with pytest.raises(InputError, match=r"is of model_type 'sam2', as .*config.json says: SAM attends in windows"):
        open_checkpoint(tmp_path)


# How pixels are made

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dinov2", Preprocessing(32, *IMAGENET, "shortest", 0.8, "bicubic")),
        ("dinov3", Preprocessing(16, *IMAGENET, "squash", 1.0, "bilinear")),
        ("clip", Preprocessing(16, *OPENAI, "shortest", 1.0, "bicubic")),
        ("siglip", Preprocessing(18, *HALVES, "squash", 1.0, "bicubic")),
        ("deit", Preprocessing(16, *HALVES, "shortest", 16 / 18, "bicubic")),
    ],
)
def test_a_processors_file_says_how_pixels_are_made(name, expected, changed):
    checkpoint = open_checkpoint(FAMILIES / name)
    assert checkpoint.preprocessing == expected
    squashed = "the shortest side resized to 18 pixels and the centre of 16 cut out, where preprocessor_config.json"
    assert checkpoint.record.assumed.get("resizing", "").startswith(squashed if name == "deit" else "")
    assert checkpoint.record.assumed.keys() == ({"resizing"} if name == "deit" else set())
    said = open_checkpoint(FAMILIES / name, pixels={"resize": "squash"})
    assert not said.record.assumed


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("CLIPImageProcessor", (*OPENAI, "shortest", 1.0, "bicubic")),
        ("CLIPFeatureExtractor", (*OPENAI, "shortest", 1.0, "bicubic")),
        ("BitImageProcessorFast", (*OPENAI, "shortest", 1.0, "bicubic")),
        ("SiglipImageProcessor", (*HALVES, "squash", 1.0, "bicubic")),
        ("DINOv3ViTImageProcessorFast", (*IMAGENET, "squash", 1.0, "bilinear")),
        ("DeiTImageProcessor", (*HALVES, "shortest", 0.875, "bicubic")),
        ("ViTImageProcessorPil", (*HALVES, "squash", 1.0, "bilinear")),
    ],
)
def test_fields_that_are_null_or_left_out_are_those_of_the_class(kind, expected, changed):
    """As the library's own classes are without arguments."""
    folder = changed("dinov2_classifier", preprocessor={"image_processor_type": kind})
    assert open_checkpoint(folder).preprocessing == Preprocessing(32, *expected)
    nothing = dict.fromkeys(("size", "crop_size", "do_center_crop", "image_mean", "resample"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **nothing}))
    assert open_checkpoint(folder).preprocessing == Preprocessing(32, *expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dinov2_registers", (*IMAGENET, "shortest", 0.875, "bicubic")),
        ("clip_vision", (*OPENAI, "shortest", 1.0, "bicubic")),
        ("siglip_vision", (*HALVES, "squash", 1.0, "bicubic")),
        ("deit_distilled", (*IMAGENET, "shortest", 0.875, "bicubic")),
        ("vit_msn", (*IMAGENET, "squash", 1.0, "bilinear")),
    ],
)
def test_without_a_processors_file_pixels_are_assumed_as_the_family_has_them(name, expected):
    checkpoint = open_checkpoint(FAMILIES / name)
    assert checkpoint.preprocessing == Preprocessing(checkpoint.spec.image_size, *expected)
    assert checkpoint.record.assumed.keys() == {"scaling", "resizing"}


def test_images_that_are_not_square(changed):
    """As many patches as a square has: 8 x 32 pixels."""
    sizes = {"image_size": [8, 32]}
    processor = {
        "image_processor_type": "DeiTImageProcessor",
        "size": {"height": 8, "width": 32},
        "do_center_crop": False,
    }
    checkpoint = open_checkpoint(changed("deit", sizes, preprocessor=processor))
    assert checkpoint.spec.image_size == checkpoint.preprocessing.image_size == (8, 32)
    assert not checkpoint.record.assumed
