"""timm's families against timm itself (`helpers/make_timm_originals.py`), and what of them is refused or assumed."""

import json
import shutil

import numpy as np
import pytest
from conftest import build
from helpers.make_timm_originals import FAMILIES, FOLDER, other_size
from helpers.originals import ORIGINALS, worst
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vit_export.base.errors import InputError
from vit_export.weights.layouts.timm_config import _function, described
from vit_export.weights.open import open_checkpoint

LIMIT = 3e-6
"""Of the range; both sides compute in float32."""


@pytest.fixture(scope="module")
def expected():
    with np.load(FOLDER / "expected.npz") as file:
        return {key: file[key] for key in file.files}


def cropped(expected, sides):
    height, width = sides
    return expected["images"][:, :height, :width]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_computes_what_timm_computes(name, expected):
    checkpoint = open_checkpoint(FOLDER / name)
    spec = checkpoint.spec
    assert checkpoint.record.assumed == {}
    model, images = build(checkpoint), cropped(expected, spec.image_sides)
    assert worst(model.predict_output(images), expected[f"{name}/output"]) < LIMIT
    if spec.pooling != "mean_norm":  # whose tokens are not normalized in timm
        assert worst(np.asarray(model.tokens(images)), expected[f"{name}/tokens"]) < LIMIT
    if spec.pooling != "class_and_distillation":  # of which timm takes the mean
        features = build(checkpoint.adapted(spec.with_(num_classes=None)))
        assert worst(features.predict_output(images), expected[f"{name}/features"]) < LIMIT


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_at_another_size_is_resampled_as_timm_does_it(name, expected):
    checkpoint = open_checkpoint(FOLDER / name)
    sides = other_size(FAMILIES[name][1])
    larger = build(checkpoint.adapted(checkpoint.spec.with_(image_size=sides)))
    assert worst(larger.predict_output(cropped(expected, sides)), expected[f"{name}/other/output"]) < LIMIT


@pytest.fixture
def changed(tmp_path):
    """A copy of a family's folder with other tensors, keys or config entries (None removes)."""

    def change(name, tensors=None, config=None, arguments=None, rename=lambda key: key):
        folder = tmp_path / name
        shutil.copytree(FOLDER / name, folder)
        path = folder / "model.safetensors"
        if tensors or rename("head.") != "head.":
            with safe_open(path, "np") as file:
                stored = {rename(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
            stored.update(tensors or {})
            save_file({key: value for key, value in stored.items() if value is not None}, path)
        known = json.loads((folder / "config.json").read_text())
        known["model_args"].update(arguments or {})
        known.update(config or {})
        known["model_args"] = {key: value for key, value in known["model_args"].items() if value is not None}
        (folder / "config.json").write_text(json.dumps(known))
        return folder

    return change


def zeros(*shape):
    return np.zeros(shape, np.float32)


# What is told of a checkpoint


@pytest.mark.parametrize("name", ["distilled", "siglip", "dinov3_biases", "attention_over_all"])
def test_wrapped_keys_are_the_same_model(name, changed, expected):
    checkpoint = open_checkpoint(changed(name, rename=lambda key: f"module.{key}"))
    images = cropped(expected, checkpoint.spec.image_sides)
    assert worst(build(checkpoint).predict_output(images), expected[f"{name}/output"]) < LIMIT


def test_a_family_in_shards(tmp_path, expected):
    stored = load_file(FOLDER / "distilled" / "model.safetensors")
    parts = {f"model-0000{n}-of-00002.safetensors": sorted(stored)[n - 1 :: 2] for n in (1, 2)}
    for name, keys in parts.items():
        save_file({key: stored[key] for key in keys}, tmp_path / name)
    index = {"weight_map": {key: name for name, keys in parts.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(FOLDER / "distilled" / "config.json", tmp_path)
    found = build(open_checkpoint(tmp_path)).predict_output(cropped(expected, (16, 16)))
    assert worst(found, expected["distilled/output"]) < LIMIT


def test_layer_scale_by_the_names_of_its_authors(tmp_path, golden_timm):
    stored = load_file(ORIGINALS / "timm_layerscale" / "model.safetensors")
    shutil.copy(ORIGINALS / "timm_layerscale" / "config.json", tmp_path)
    renamed = {key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for key, v in stored.items()}
    save_file(renamed, tmp_path / "model.safetensors")
    found = build(open_checkpoint(tmp_path)).predict_output(golden_timm["images"])
    assert worst(found, golden_timm["timm_layerscale/logits"]) < 1e-5


@pytest.fixture
def golden_timm():
    with np.load(ORIGINALS / "expected.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dinov2", "timm's exact GELU, epsilon 1e-06 and class token"),
        ("gap", "timm's exact GELU, epsilon 1e-06 and mean of the patches before the last LayerNorm"),
        ("gap_with_positions", "timm's exact GELU, epsilon 1e-06 and mean of the patches"),
        ("distilled", "timm's exact GELU, epsilon 1e-06 and mean of the two classifiers"),
        ("siglip", "timm's exact GELU, epsilon 1e-06 and attention pooling"),
        ("clip_quickgelu", "timm's exact GELU, epsilon 1e-05 and class token"),
        ("dinov3", "timm's exact GELU, epsilon 1e-05 and mean of the patches"),
    ],
)
def test_what_a_file_alone_does_not_say_is_assumed_aloud(name, told, tmp_path):
    shutil.copy(FOLDER / name / "model.safetensors", tmp_path / "weights.safetensors")
    known = open_checkpoint(FOLDER / name).spec
    checkpoint = open_checkpoint(tmp_path / "weights.safetensors", num_heads=4, image_size=known.image_size)
    assert checkpoint.record.assumed["arithmetic"] == told
    same = {"gelu": known.gelu, "pooling": known.pooling}
    assert checkpoint.spec.with_(**same) == known


def test_the_image_size_of_dinov3_alone_is_asked_for(tmp_path):
    shutil.copy(FOLDER / "dinov3" / "model.safetensors", tmp_path)
    with pytest.raises(InputError, match="give image_size, a multiple of 4"):
        open_checkpoint(tmp_path / "model.safetensors", num_heads=4)


def test_learned_positions_that_may_be_rotary_as_well_need_a_config(changed):
    path = changed("eva", {f"blocks.{n}.gamma_{k}": zeros(32) + 1 for n in (0, 1) for k in (1, 2)})
    assert open_checkpoint(path).spec.positions == "learned"
    (path / "config.json").unlink()
    with pytest.raises(InputError, match="may be rotary as well: put timm"):
        open_checkpoint(path, num_heads=4)


def test_all_tokens_of_timm_are_pooled_aloud(changed):
    checkpoint = open_checkpoint(changed("siglip_gap", arguments={"global_pool": ""}))
    assert checkpoint.record.assumed == {
        "pooling": "mean of the patches, where timm returns all tokens (global_pool '')"
    }


def test_distilled_features_are_said_to_be_others_than_timms(changed):
    heads = {f"{head}.{part}": None for head in ("head", "head_dist") for part in ("weight", "bias")}
    checkpoint = open_checkpoint(changed("distilled", heads))
    assert checkpoint.spec.num_classes is None
    assert checkpoint.record.assumed.keys() == {"features"}


@pytest.mark.parametrize(
    ("width", "tag", "told"),
    [(512, "openai", True), (512, "openai_ft_in1k", False), (512, None, False), (10, "laion2b", False)],
)
def test_clips_projection_is_told_from_a_classifier(width, tag, told, changed):
    head = {"head.weight": zeros(width, 32) + 1, "head.bias": zeros(width)}
    pretrained = {**json.loads((FOLDER / "clip" / "config.json").read_text())["pretrained_cfg"], "tag": tag}
    checkpoint = open_checkpoint(changed("clip", head, {"pretrained_cfg": pretrained}))
    assert checkpoint.spec.num_classes == width
    assert any("no classes" in note and tag in note for note in checkpoint.notes) == told


def test_attention_pooling_that_siglip_does_without_is_left_out(changed, expected):
    pooling = load_file(FOLDER / "siglip_border" / "model.safetensors")
    unused = {key: value for key, value in pooling.items() if key.startswith("attn_pool.")}
    found = build(open_checkpoint(changed("siglip_gap", unused))).predict_output(cropped(expected, (18, 18)))
    assert worst(found, expected["siglip_gap/output"]) < LIMIT
    with pytest.raises(InputError, match=r"unexpected attn_pool.kv.bias"):
        open_checkpoint(changed("gap_with_positions", unused))


def test_the_image_tower_of_open_clip(changed, expected):
    others = {"text.ln_final.weight": zeros(8), "logit_scale": zeros(1), "logit_bias": zeros(1)}
    folder = changed("siglip", others, rename=lambda key: f"visual.trunk.{key}")
    found = build(open_checkpoint(folder)).predict_output(cropped(expected, (16, 16)))
    assert worst(found, expected["siglip/output"]) < LIMIT
    with pytest.raises(InputError, match="unexpected logit_bias"):
        open_checkpoint(changed("clip", others))


def test_norm_layer_by_name_is_timms_own_epsilon(changed):
    assert open_checkpoint(FOLDER / "clip").spec.layer_norm_epsilon == 1e-5
    assert open_checkpoint(changed("clip", arguments={"norm_layer": "layernorm"})).spec.layer_norm_epsilon == 1e-6


def test_images_that_are_not_square_have_as_many_patches(changed):
    assert open_checkpoint(changed("clip", arguments={"img_size": [8, 32]})).spec.image_size == (8, 32)


def test_the_table_of_architectures_is_timms(tmp_path):
    """Every Vision Transformer of timm's three modules is described as timm builds it, or refused by its name."""
    known = json.loads((FOLDER / "architectures.json").read_text())
    refused, unknown = set(), set()
    for name, (width, *said) in known.items():
        try:
            found = described(tmp_path, {"architecture": name}, width)
        except InputError:
            refused.add(name)
            continue
        if found.architecture is None:
            unknown.add(name)
            continue
        told = {"act_layer": "gelu", "class_token": True, "no_embed_class": False, "pool_include_prefix": False}
        told |= found.arguments
        registers = told.get("reg_tokens", told.get("num_reg_tokens", 0))
        names = ("num_heads", "epsilon", "act_layer", "global_pool", "class_token", "no_embed_class")
        assert [*(told[key] for key in names), registers] == said, name
    assert unknown == set()
    assert not any(_function(name) for name in refused)
    assert len(known) - len(refused) == 155
    assert not any(name.startswith(("deit", "flexivit", "eva_")) for name in refused)


# What is refused


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        (
            "dinov2",
            {"reg_token": None},
            "no row of register tokens .reg_token., but its config.json means reg_tokens 4",
        ),
        (
            "dinov3",
            {"reg_token": None},
            "no row of register tokens .reg_token., but its config.json means num_reg_tokens 4",
        ),
        ("distilled", {"dist_token": None}, "no distillation token .dist_token., but its config.json means distilled"),
        ("dinov2", {"blocks.0.extra": zeros(2)}, r"unexpected blocks.0.extra \[2\]"),
        ("gap", {"fc_norm.bias": None}, r"missing fc_norm.bias \[32\]"),
        (
            "gap",
            {f"blocks.1.{n}.weight": None for n in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")},
            "and 1 more",
        ),
        ("distilled", {"head_dist.weight": None, "head_dist.bias": None}, r"missing head_dist.weight \[7, 32\]"),
        ("distilled", {"head_dist.weight": zeros(5, 32)}, r"head_dist.weight is \[5, 32\], expected \[7, 32\]"),
        ("siglip", {"attn_pool.q.bias": None}, r"missing attn_pool.q.bias \[32\]"),
        ("siglip", {"attn_pool.q_norm.weight": zeros(8)}, "LayerNorm on queries and keys"),
        ("siglip", {"fc_norm.weight": zeros(32)}, "a LayerNorm .fc_norm. after attention pooling"),
        ("siglip", {"cls_token": zeros(1, 1, 32)}, "a class token .*, but its config.json means class_token False"),
        (
            "clip",
            {"norm_pre.weight": None},
            "no LayerNorm before the blocks .*, but its config.json means pre_norm True",
        ),
        ("dinov3", {"blocks.1.gamma_2": None}, r"missing blocks.1.gamma_2 \[32\]"),
        ("dinov3", {"pos_embed": zeros(1, 21, 32)}, "rotary positions that are not DINOv3's"),
        ("dinov3_biases", {"blocks.0.attn.v_bias": None}, r"missing blocks.0.attn.v_bias \[32\]"),
        ("dinov2", {"register_tokens": zeros(1, 4, 32)}, "as DINOv2's authors store them"),
        ("dinov3", {"storage_tokens": zeros(1, 4, 32)}, "as DINOv3's authors store them"),
        ("eva", {"rope.freqs": zeros(2)}, "learned rotary positions"),
        ("mae", {"blocks.0.mlp.fc2.weight": zeros(32, 24)}, "SwiGLU"),
        ("mae", {"blocks.0.mlp.norm.weight": zeros(48)}, "a LayerNorm within the MLP"),
        ("mae", {"patch_embed.proj.weight": zeros(32, 4, 4, 4)}, "is for images of 4 channels, expected 3"),
    ],
)
def test_every_key_of_a_family_is_used_or_refused(name, tensors, message, changed):
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(changed(name, tensors))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dinov3", {"rope_temperature": 10000}, "rope_temperature 10000, expected 100"),
        ("dinov3", {"rope_rotate_half": False}, "rope_rotate_half False, expected True"),
        ("dinov3", {"use_rot_pos_emb": False}, "no tensor pos_embed"),
        ("eva", {"use_rot_pos_emb": True}, "rotary positions that are not DINOv3's"),
        ("eva", {"attn_type": "rope"}, "attn_type 'rope', expected 'eva'"),
        ("attention_over_all", {"pool_include_prefix": False}, "leaves out the first 1 of the tokens"),
        ("gap", {"pool_include_prefix": True}, "takes the mean of all tokens"),
        ("gap", {"global_pool": "token"}, "no class token .cls_token., by which"),
        ("distilled", {"global_pool": "avg"}, "distillation token, but does not classify by it"),
        ("siglip", {"global_pool": "avgmax"}, "global_pool 'avgmax'"),
        ("dinov2", {"depth": 3}, "depth 3, but the tensors have 2"),
        ("dinov2", {"reg_tokens": 3}, "reg_tokens 3, but the tensors have 4"),
        ("dinov3", {"num_reg_tokens": 1}, "reg_tokens 1, but the tensors have 4"),
        ("mae", {"patch_size": 8}, "patch_size 8, but the tensors have 4"),
        ("mae", {"embed_dim": 64}, "embed_dim 64, but the tensors have 32"),
        ("clip", {"act_layer": "silu"}, "act_layer 'silu', expected 'gelu' or 'gelu_tanh' or 'quick_gelu'"),
    ],
)
def test_arguments_that_make_another_model_of_a_family(name, arguments, message, changed):
    with pytest.raises(InputError, match=message):
        open_checkpoint(changed(name, arguments=arguments))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("beit_base_patch16_224", "BEiT"),
        ("beitv2_large_patch16_224", "BEiT"),
        ("beit3_base_patch16_224", "BEiT-3"),
        ("eva02_base_patch14_448", "EVA-02"),
        ("vit_giant_patch14_reg4_dinov2", "SwiGLU"),
        ("vit_small_plus_patch16_dinov3", "SwiGLU"),
        ("vit_7b_patch16_dinov3", "SwiGLU"),
        ("vit_base_patch16_rope_224", "RoPE-ViT"),
        ("vit_pe_core_base_patch16_224", "the Perception Encoder"),
        ("naflexvit_base_patch16_siglip", "NaFlexViT"),
        ("swinv2_tiny_window8_256", "Swin"),
        ("samvit_base_patch16", "SAM"),
        ("fastvit_mci2", "MobileCLIP"),
        ("vit_base_mci_224", "MobileCLIP"),
        ("vit_small_r26_s32_224", "hybrid"),
        ("vit_tiny_r_s16_p8_224", "hybrid"),
        ("vit_base_resnet50d_224", "hybrid"),
        ("vit_relpos_base_patch16_224", "relative positions"),
        ("vit_srelpos_small_patch16_224", "relative positions"),
        ("vit_small_patch16_18x2_224", "parallel blocks"),
        ("vit_dwee_patch16_reg1_gap_256", "differential attention"),
        ("vit_intern300m_patch14_448", "InternViT"),
        ("vit_so150m_patch16_reg4_map_256", "attention pooling leaves out its registers"),
        ("aimv2_large_patch14_224", "RMSNorm"),
        ("cait_xxs24_224", "another kind of Transformer"),
        ("pvt_v2_b0", "another kind of Transformer"),
    ],
)
def test_others_are_refused_by_their_own_names(architecture, message, changed):
    with pytest.raises(InputError, match=rf"is .*{message}.*architecture '{architecture}'"):
        open_checkpoint(changed("mae", config={"architecture": architecture}))


def test_others_are_refused_by_name_whatever_their_tensors(changed):
    folder = changed("mae", config={"architecture": "naflexvit_base_patch16_gap"}, rename=lambda key: f"{key}.other")
    with pytest.raises(InputError, match="NaFlexViT"):
        open_checkpoint(folder)
