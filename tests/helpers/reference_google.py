"""The forward pass of google-research/vision_transformer in plain NumPy (float64), on the arrays of one of its files.

Written from that project's definition (`vit_jax/models_vit.py`, and `big_vision/models/vit.py` for its successor) and
with Flax's own contractions (heads stay an axis of their own), not from this package's canonical parameters: what maps
the one to the other can be tested against it. `fabricate` makes random files in those layouts. Both were compared once
with modules of flax 0.12 (largest difference of the logits 2e-6).
"""

import numpy as np

EPSILON = 1e-6  # flax.linen.LayerNorm's default, which neither project changes
SMALL = 0.02  # spread of the embeddings: so small that EPSILON shows in the output

# The same modules, counted over all classes (before Linen: the released files) or each class by itself (Linen).
_PRE_LINEN = ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
_LINEN = ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


def forward(arrays, images, *, prefix=""):
    """Run `images` [n, side, side, 3] through the file `arrays`: a dict of float64 arrays.

    "tokens" [n, T, D] after encoder_norm, "class_token" [n, D], "pre_logits" [n, D] (equal to "class_token" where the
    file has no such layer) and, where it has a head, "logits" [n, C].
    """
    p = {key.removeprefix(prefix): np.asarray(array, np.float64) for key, array in arrays.items()}
    x = _patches(np.asarray(images, np.float64), p["embedding/kernel"]) + p["embedding/bias"]
    cls = np.tile(p["cls"], (len(x), 1, 1))
    if "pos_embedding" in p:  # big_vision: added to the patches only, before the class token is put in front
        x = np.concatenate([cls, x + p["pos_embedding"]], axis=1)
    else:
        key = "Transformer/posembed_input/pos_embedding"
        x = np.concatenate([cls, x], axis=1) + p[key if key in p else "Transformer/pos_embedding"]
    for block in _blocks(p):
        x = _encoder_block(block, x)
    tokens = _layer_norm(x, p["Transformer/encoder_norm/scale"], p["Transformer/encoder_norm/bias"])
    result = {"tokens": tokens, "class_token": tokens[:, 0], "pre_logits": tokens[:, 0]}
    if "pre_logits/kernel" in p:
        result["pre_logits"] = np.tanh(_dense(p, "pre_logits", tokens[:, 0]))
    if "head/kernel" in p:
        result["logits"] = _dense(p, "head", result["pre_logits"])
    return result


def _blocks(p):
    """The parameters of each encoder block, from the first to the last, named as within the block."""
    stacked = "Transformer/encoderblock/"
    inside = {key.removeprefix(stacked): array for key, array in p.items() if key.startswith(stacked)}
    if inside:
        for index in range(len(next(iter(inside.values())))):
            yield {key: array[index] for key, array in inside.items()}
    index = 0
    while block := {
        key.removeprefix(prefix): array
        for prefix in [f"Transformer/encoderblock_{index}/"]
        for key, array in p.items()
        if key.startswith(prefix)
    }:
        yield block
        index += 1


def _encoder_block(p, x):
    first_norm, attention, second_norm, mlp = _PRE_LINEN if "MlpBlock_3/Dense_0/kernel" in p else _LINEN
    y = _layer_norm(x, p[f"{first_norm}/scale"], p[f"{first_norm}/bias"])
    query, key, value = (
        np.einsum("btc,chd->bthd", y, p[f"{attention}/{name}/kernel"]) + p[f"{attention}/{name}/bias"]
        for name in ("query", "key", "value")
    )
    weights = _softmax(np.einsum("bqhd,bkhd->bhqk", query / np.sqrt(query.shape[-1]), key))
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, value)
    x = x + np.einsum("bqhd,hdc->bqc", mixed, p[f"{attention}/out/kernel"]) + p[f"{attention}/out/bias"]
    y = _layer_norm(x, p[f"{second_norm}/scale"], p[f"{second_norm}/bias"])
    return x + _dense(p, f"{mlp}/Dense_1", _gelu(_dense(p, f"{mlp}/Dense_0", y)))


def _patches(images, kernel):
    """A convolution without overlap (VALID), [n, patches, D]; `kernel` is [height, width, channel, D]."""
    n, side = images.shape[:2]
    size = kernel.shape[0]
    cut = images.reshape(n, side // size, size, side // size, size, 3)
    return np.einsum("nyhxwc,hwcd->nyxd", cut, kernel).reshape(n, -1, kernel.shape[-1])


def _dense(p, name, x):
    return np.einsum("...i,ij->...j", x, p[f"{name}/kernel"]) + p[f"{name}/bias"]


def _layer_norm(x, scale, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON) * scale + bias


def _gelu(x):
    """flax.linen.gelu: the tanh approximation unless told otherwise."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def fabricate(
    sizes, rng, *, newer_names=False, stacked=False, prefix="", pre_logits=False, zero_head=False, pool="tok"
):
    """Random arrays (float32) of a file with the `sizes` of a ViTSpec, where every array matters.

    The default is a released file of vision_transformer. `newer_names` counts modules as Linen does. `stacked` is what
    big_vision writes today with scan=True: Linen names, one block with a leading layer axis, and `pos_embedding` at
    the top, for the patches alone [1, N, D]. `prefix` ("params/", "opt/target/") precedes every name. `pre_logits`
    adds the dense layer before the head, `zero_head` leaves the head as it is before fine-tuning. `pool` "gap" leaves
    out the class token, "map" also adds an attention pooling head (`forward` runs neither).
    """
    p, d, m, h = sizes.patch_size, sizes.hidden_size, sizes.mlp_size, sizes.num_heads
    patches = (sizes.image_size // p) ** 2
    first_norm, attention, second_norm, mlp = _LINEN if newer_names or stacked else _PRE_LINEN
    arrays = {}

    def draw(name, shape, spread):
        arrays[name] = (spread * rng.standard_normal(shape)).astype(np.float32)

    def dense(name, inputs, outputs):
        draw(f"{name}/kernel", (*inputs, *outputs), 1.3 * np.prod(inputs) ** -0.5)
        draw(f"{name}/bias", outputs, 0.3)

    def norm(name):
        arrays[f"{name}/scale"] = rng.uniform(0.5, 1.5, d).astype(np.float32)
        draw(f"{name}/bias", (d,), 0.3)

    def attend(name):
        for projection in ("query", "key", "value"):
            dense(f"{name}/{projection}", (d,), (h, d // h))
        dense(f"{name}/out", (h, d // h), (d,))

    draw("embedding/kernel", (p, p, 3, d), SMALL * (3 * p * p) ** -0.5)
    draw("embedding/bias", (d,), SMALL)
    if pool == "tok":
        draw("cls", (1, 1, d), SMALL)
    if stacked:
        draw("pos_embedding", (1, patches, d), SMALL)
    else:
        rows = patches + (1 if pool == "tok" else 0)
        draw("Transformer/posembed_input/pos_embedding", (1, rows, d), SMALL)
    for index in range(sizes.num_layers):
        block = f"Transformer/encoderblock_{index}"
        norm(f"{block}/{first_norm}")
        attend(f"{block}/{attention}")
        norm(f"{block}/{second_norm}")
        dense(f"{block}/{mlp}/Dense_0", (d,), (m,))
        dense(f"{block}/{mlp}/Dense_1", (m,), (d,))
    if stacked:
        _stack(arrays, sizes.num_layers)
    norm("Transformer/encoder_norm")
    if pool == "map":
        draw("MAPHead_0/probe", (1, 1, d), 1.0)
        attend("MAPHead_0/MultiHeadDotProductAttention_0")
        norm("MAPHead_0/LayerNorm_0")
        dense("MAPHead_0/MlpBlock_0/Dense_0", (d,), (m,))
        dense("MAPHead_0/MlpBlock_0/Dense_1", (m,), (d,))
    if pre_logits:
        dense("pre_logits", (d,), (d,))
    if sizes.num_classes is not None:
        dense("head", (d,), (sizes.num_classes,))
        if zero_head:
            arrays["head/kernel"] = np.zeros_like(arrays["head/kernel"])
            arrays["head/bias"] = np.zeros_like(arrays["head/bias"])
    return {prefix + name: array for name, array in arrays.items()}


def _stack(arrays, layers):
    """Replace the blocks' arrays by one of each name, the layers along its first axis."""
    first = "Transformer/encoderblock_0/"
    for name in [key.removeprefix(first) for key in arrays if key.startswith(first)]:
        values = [arrays.pop(f"Transformer/encoderblock_{index}/{name}") for index in range(layers)]
        arrays[f"Transformer/encoderblock/{name}"] = np.stack(values)
