"""What the original packages make and compute, kept as fixtures, so that tests need none of them.

    python tests/helpers/make_originals.py      writes tests/fixtures/positions.npz, tests/fixtures/originals/ and
                                        vit_export/data/imagenet_1k.txt (half a minute)

Needs torch, torchvision, timm, transformers, safetensors and scipy (written with torch 2.13, torchvision 0.28,
timm 1.0.31, transformers 5.23, scipy 1.17), but not this package. Weights and pictures are reproducible; outputs may
differ in their last bits from machine to machine.
"""

import shutil
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1]
POSITIONS = TESTS / "fixtures" / "positions.npz"
ORIGINALS = TESTS / "fixtures" / "originals"
EXPECTED = ORIGINALS / "expected.npz"
IMAGENET = TESTS.parent / "vit_export" / "data" / "imagenet_1k.txt"

GRIDS = ((4, 6), (6, 4), (7, 7), (14, 24), (24, 14), (5, 1), (1, 3), (3, 2))
SHAPES = ((4, (3, 6)), (14, (14, 24)), (7, (12, 4)), (4, (2, 8)))  # of squares, to (rows, columns)
SCIPY_ZEROS = (16, 30)  # a pair of grids for which SciPy leaves the last row and column zero

PATCH, WIDTH, HEADS, LAYERS, MLP, CLASSES = 8, 32, 4, 2, 64, 7
IMAGE, LARGER_IMAGE = 32, 48
LABELS = ("tabby cat", "hen", "daisy", "canoe", "accordion", "lighthouse, beacon", "crème brûlée")


def make_positions() -> None:
    """Resample random embeddings with the four original functions."""
    random = np.random.default_rng(20)
    arrays = {}
    for old, new in (*GRIDS, SCIPY_ZEROS):
        embedding = random.standard_normal((1, 1 + old * old, 4)).astype(np.float32)
        name = f"{old}_{new}"
        arrays[f"{name}/embedding"] = embedding
        for rule, function in _RULES.items():
            if (old, new) != SCIPY_ZEROS or rule == "bilinear_aligned":
                arrays[f"{name}/{rule}"] = function(embedding, new, new)
    random = np.random.default_rng(21)
    for old, (rows, columns) in SHAPES:  # which the functions of the other two packages do not make
        embedding = random.standard_normal((1, 1 + old * old, 4)).astype(np.float32)
        name = f"{old}_{rows}x{columns}"
        arrays[f"{name}/embedding"] = embedding
        for rule in ("bicubic_antialiased", "bicubic", "bilinear"):
            arrays[f"{name}/{rule}"] = _RULES[rule](embedding, rows, columns)
    np.savez_compressed(POSITIONS, **arrays)


def _by_scipy(embedding, grid, _):
    import scipy.ndimage

    old = int((embedding.shape[1] - 1) ** 0.5)
    patches = embedding[0, 1:].reshape(old, old, -1)
    zoomed = scipy.ndimage.zoom(patches, (grid / old, grid / old, 1), order=1)
    return np.concatenate([embedding[:, :1], zoomed.reshape(1, grid * grid, -1)], axis=1)


def _by_timm(embedding, rows, columns):
    import torch
    from timm.layers.pos_embed import resample_abs_pos_embed

    return resample_abs_pos_embed(torch.from_numpy(embedding), [rows, columns]).numpy()


def _by_timm_for_flexivit(embedding, rows, columns):
    import torch
    from timm.layers.pos_embed import resample_abs_pos_embed

    options = {"interpolation": "bilinear", "antialias": False}  # _create_vision_transformer's for FlexiViT
    return resample_abs_pos_embed(torch.from_numpy(embedding), [rows, columns], **options).numpy()


def _by_transformers(embedding, rows, columns):
    import torch
    from transformers import ViTConfig
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    old = int((embedding.shape[1] - 1) ** 0.5)
    width = embedding.shape[2]
    module = ViTEmbeddings(
        ViTConfig(hidden_size=width, num_attention_heads=1, image_size=PATCH * old, patch_size=PATCH)
    )
    module.position_embeddings.data = torch.from_numpy(embedding)
    tokens = torch.zeros(1, 1 + rows * columns, width)
    return module.interpolate_pos_encoding(tokens, PATCH * rows, PATCH * columns).detach().numpy()


def _by_torchvision(embedding, grid, _):
    import torch
    from torchvision.models.vision_transformer import interpolate_embeddings

    state = interpolate_embeddings(PATCH * grid, PATCH, {"encoder.pos_embedding": torch.from_numpy(embedding)})
    return state["encoder.pos_embedding"].numpy()


_RULES = {
    "bilinear_aligned": _by_scipy,
    "bicubic_antialiased": _by_timm,
    "bicubic": _by_transformers,
    "bicubic_aligned": _by_torchvision,
    "bilinear": _by_timm_for_flexivit,
}


def pictures(size: int, count: int, seed: int) -> np.ndarray:
    """Smooth pictures with noise in -1..1, float32 [count, size, size, 3]; multiples of 1/64 compress well."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(-1, 1, (count, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    fine = random.uniform(-1, 1, (count, size, size, 3))
    return (np.round(64 * np.clip(0.8 * coarse + 0.4 * fine, -1, 1)) / 64).astype(np.float32)


def randomize(model, seed: int) -> None:
    """Give every parameter of a torch `model` random values that matter.

    Activations are of order one, except for the embeddings': theirs are so small that the epsilon of the first
    LayerNorm shows in the output.
    """
    import torch

    random = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        noise = random.standard_normal(shape)
        if "norm" in name or ".ln" in name:
            value = random.uniform(0.5, 1.5, shape) if name.endswith("weight") else 0.3 * noise
        elif name.endswith("gamma"):
            value = random.uniform(0.3, 1.5, shape)
        elif any(word in name for word in ("patch_embed", "conv_proj", "position", "pos_embed", "cls_", "class_token")):
            value = 0.02 * noise / (np.prod(shape[1:]) ** 0.5 if len(shape) == 4 else 1.0)
        elif name.endswith("weight"):
            value = 1.3 * noise / shape[1] ** 0.5
        else:
            value = 0.3 * noise
        parameter.data = torch.from_numpy(value.astype(np.float32))


def make_checkpoints() -> None:
    """Write tiny checkpoints as each package writes them, and what each package's model computes from them."""
    import torch

    shutil.rmtree(ORIGINALS, ignore_errors=True)
    ORIGINALS.mkdir(parents=True)
    images, larger = pictures(IMAGE, 6, seed=1), pictures(LARGER_IMAGE, 2, seed=2)
    expected = {"images": images, "larger_images": larger}
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    for make in (_transformers_classifier, _transformers_features, _timm, _timm_layerscale, _torchvision):
        expected.update(make(_nchw(images), _nchw(larger)))
    np.savez_compressed(EXPECTED, **expected)
    for file in ORIGINALS.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes files that only their owner may read


def _nchw(images):
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _named(prefix, **tensors):
    return {f"{prefix}/{name}": tensor.numpy() for name, tensor in tensors.items()}


def _transformers_config(**changes):
    from transformers import ViTConfig

    return ViTConfig(
        image_size=IMAGE,
        patch_size=PATCH,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=MLP,
        layer_norm_eps=1e-12,
        **changes,
    )


def _transformers_classifier(images, larger):
    from transformers import ViTForImageClassification, ViTImageProcessor

    folder = ORIGINALS / "hf"
    config = _transformers_config(
        id2label=dict(enumerate(LABELS)), label2id={label: index for index, label in enumerate(LABELS)}
    )
    model = ViTForImageClassification(config).eval()
    randomize(model, seed=10)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": IMAGE, "width": IMAGE}).save_pretrained(folder)
    return _named(
        "hf",
        logits=model(images).logits,
        larger_logits=model(larger, interpolate_pos_encoding=True).logits,
    )


def _transformers_features(images, larger):
    from transformers import ViTModel

    model = ViTModel(_transformers_config()).eval()
    randomize(model, seed=11)
    model.save_pretrained(ORIGINALS / "hf_model")
    output, larger_output = model(images), model(larger, interpolate_pos_encoding=True)
    return _named(
        "hf_model",
        class_token=output.last_hidden_state[:, 0],
        pooler_output=output.pooler_output,
        larger_class_token=larger_output.last_hidden_state[:, 0],
    )


def _timm(images, larger):
    return _by_timm_model("timm", images, larger, seed=12)


def _timm_layerscale(images, larger):
    return _by_timm_model("timm_layerscale", images, larger, seed=13, init_values=1e-5)


def _by_timm_model(folder, images, larger, *, seed, **changes):
    import timm
    from timm.models import save_for_hf
    from timm.models.vision_transformer import checkpoint_filter_fn

    def create(size):
        sizes = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": HEADS, "mlp_ratio": MLP / WIDTH}
        return timm.create_model("vit_base_patch16_224", img_size=size, num_classes=CLASSES, **sizes, **changes).eval()

    model, larger_model = create(IMAGE), create(LARGER_IMAGE)
    randomize(model, seed)
    save_for_hf(model, ORIGINALS / folder, safe_serialization=True)
    larger_model.load_state_dict(checkpoint_filter_fn(model.state_dict(), larger_model))
    return _named(
        folder, logits=model(images), tokens=model.forward_features(images), larger_logits=larger_model(larger)
    )


def _torchvision(images, larger):
    from safetensors.torch import save_file
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    def create(size):
        return VisionTransformer(size, PATCH, LAYERS, HEADS, WIDTH, MLP, num_classes=CLASSES).eval()

    model, larger_model = create(IMAGE), create(LARGER_IMAGE)
    randomize(model, seed=14)
    (ORIGINALS / "torchvision").mkdir()
    save_file(model.state_dict(), ORIGINALS / "torchvision" / "model.safetensors")
    larger_model.load_state_dict(interpolate_embeddings(LARGER_IMAGE, PATCH, model.state_dict()))
    return _named("torchvision", logits=model(images), larger_logits=larger_model(larger))


def write_full_size(folder: Path, *, seed: int = 0):
    """Save a random ViT-B/16 (1000 classes, 224 pixels, 330 MB) as transformers does, and return the torch model."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    model = ViTForImageClassification(ViTConfig(num_labels=1000)).eval()
    randomize(model, seed)
    model.save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return model


def make_imagenet_labels() -> None:
    """The 1000 classes of ILSVRC-2012 in the order of their WordNet ids, each with all its synonyms."""
    import timm.data

    info = Path(timm.data.__file__).parent / "_info"
    synsets = (info / "imagenet_synsets.txt").read_text().split()
    rows = (info / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    lemmas = dict(row.split("\t", 1) for row in rows)
    assert synsets == sorted(synsets)
    assert (len(synsets), synsets[0], synsets[-1]) == (1000, "n01440764", "n15075141")
    IMAGENET.parent.mkdir(exist_ok=True)
    IMAGENET.write_text("".join(f"{lemmas[synset].strip()}\n" for synset in synsets), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    make_positions()
    make_checkpoints()
    make_imagenet_labels()
