"""Checkpoints of timm's families and what timm computes from them, kept as fixtures, so that tests need no timm.

    cd tests && python -m helpers.make_timm_originals     writes tests/fixtures/timm/ (a minute)

Needs torch, timm and safetensors (written with torch 2.14 and timm 1.0.31), but not this package.
"""

import json
import shutil

import numpy as np

from helpers.make_originals import TESTS, pictures, randomize

FOLDER = TESTS / "fixtures" / "timm"
SIZES = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 1.5}

FAMILIES = {
    "dinov2": ("vit_small_patch14_reg4_dinov2", 16, {"num_classes": 0}),
    "gap": ("vit_base_patch16_reg4_gap_256", 16, {}),
    "gap_with_positions": ("vit_so150m_patch16_reg4_gap_256", 16, {}),
    "distilled": ("deit_small_distilled_patch16_224", 16, {}),
    "mae": ("vit_base_patch16_224", (16, 24), {"global_pool": "avg"}),
    "mean_after_norm": ("vit_base_patch16_224", 16, {"global_pool": "avg", "fc_norm": False}),
    "siglip": ("vit_so400m_patch16_siglip_256", 16, {"num_classes": 0}),
    "siglip_border": ("vit_so400m_patch14_siglip_384", (18, 27), {"num_classes": 0}),
    "siglip_gap": ("vit_so400m_patch14_siglip_gap_384", 18, {"num_classes": 0}),
    "clip": ("vit_base_patch32_clip_224", 16, {}),
    "clip_quickgelu": ("vit_base_patch32_clip_quickgelu_224", 16, {}),
    "dinov3": ("vit_small_patch16_dinov3", 16, {"num_classes": 0}),
    "dinov3_biases": ("vit_small_patch16_dinov3_qkvb", (16, 24), {"global_pool": "token"}),
    "eva": ("eva_giant_patch14_224", 16, {}),
    "flexivit": ("flexivit_small", 16, {}),
    "attention_over_all": ("test_vit3", 16, {"num_classes": 5}),
}
"""By folder: architecture, image size, and arguments beside `SIZES`."""


def other_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """The other size of images that a family is computed for: half as large again, and not square."""
    height, width = size if isinstance(size, tuple) else (size, size)
    return height // 4 * 6, width // 4 * 4


def make() -> None:
    """Write every family, stored in 16 bits (one in bfloat16), and what timm computes from them in float32."""
    import timm
    import torch
    from timm.models import save_for_hf
    from timm.models.vision_transformer import checkpoint_filter_fn

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    images = pictures(32, 2, seed=5)
    expected = {"images": images}

    def run(model, name, sides):
        pixels = torch.from_numpy(images[:, : sides[0], : sides[1]]).permute(0, 3, 1, 2).contiguous()
        tokens = model.forward_features(pixels)
        expected[f"{name}/features"] = model.forward_head(tokens, pre_logits=True).numpy()
        expected[f"{name}/output"] = model(pixels).numpy()
        if "/" not in name:
            expected[f"{name}/tokens"] = tokens.numpy()

    for seed, (name, (architecture, size, changes)) in enumerate(FAMILIES.items()):
        sides = size if isinstance(size, tuple) else (size, size)
        model = timm.create_model(architecture, **{"img_size": size, "num_classes": 7, **SIZES, **changes}).eval()
        randomize(model, seed=seed)
        model.to(torch.bfloat16 if name == "flexivit" else torch.float16)
        save_for_hf(model, FOLDER / name, safe_serialization=True)
        for parameter in model.parameters():  # buffers of DINOv3's positions are made in float32
            parameter.data = parameter.data.float()
        fresh = timm.create_model(architecture, **{"img_size": size, "num_classes": 7, **SIZES, **changes}).eval()
        fresh.load_state_dict(model.state_dict())
        run(fresh, name, sides)
        sides = other_size(size)
        if name == "flexivit":  # whose weights are resampled by another rule when they are loaded
            state = fresh.state_dict()
            fresh = timm.create_model(architecture, **{"num_classes": 7, **SIZES, "img_size": sides}).eval()
            fresh.load_state_dict(checkpoint_filter_fn(state, fresh, interpolation="bilinear", antialias=False))
        else:
            fresh.set_input_size(img_size=sides)
        run(fresh, f"{name}/other", sides)
    np.savez_compressed(FOLDER / "expected.npz", **expected)
    for file in FOLDER.rglob("*.safetensors"):
        file.chmod(0o644)
    (FOLDER / "architectures.json").write_text(_lines(architectures()))


def _lines(values: dict) -> str:
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()) + "\n}\n"


def architectures() -> dict[str, list]:
    """Of each architecture: width, heads, epsilon, activation, pooling, class token, no_embed_class, registers."""
    import timm
    import torch
    from timm.models import deit, eva, vision_transformer

    acts = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "GELUtanh": "gelu_tanh", "QuickGELU": "quick_gelu"}
    found = {}
    for name in sorted({**vision_transformer.default_cfgs, **deit.default_cfgs, **eva.default_cfgs}):
        with torch.device("meta"):
            model = timm.create_model(name)
        modules = dict(model.named_modules())
        epsilons = {module.eps for module in modules.values() if type(module).__name__ == "LayerNorm"}
        used = {type(module).__name__ for key, module in modules.items() if key.endswith(".act")}
        attention = getattr(model.blocks[0], "attn", None)
        found[name] = [
            model.embed_dim,
            getattr(attention, "num_heads", None),
            *(epsilons or {None}),
            acts.get("".join(used)),
            model.global_pool,
            model.cls_token is not None,
            model.no_embed_class,
            0 if model.reg_token is None else model.reg_token.shape[1],
        ]
    return found


if __name__ == "__main__":
    make()
