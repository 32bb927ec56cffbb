"""A Vision Transformer in plain numpy, written from the paper alone: the judge of the Keras reference."""

import math

import numpy as np

from vit_export.model.parameters import layer_name

_erf = np.vectorize(math.erf)


def forward(read, spec, images: np.ndarray) -> np.ndarray:
    """Token sequence after the final LayerNorm, float64 [n, tokens, width]."""
    p, (rows, columns) = spec.patch_size, spec.grid
    get = lambda name: read(name).astype(np.float64)  # noqa: E731
    patches = images.reshape(len(images), rows, p, columns, p, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(len(images), rows * columns, p * p * 3)
    embedded = patches @ get("patch_embedding/kernel").reshape(p * p * 3, -1) + get("patch_embedding/bias")
    first = np.broadcast_to(get("class_token"), (len(images), 1, spec.hidden_size))
    x = np.concatenate([first, embedded], 1) + get("position_embedding")
    for index in range(spec.num_layers):
        prefix = layer_name(index)
        x = x + _attention(_norm(x, get, f"{prefix}/attention_norm", spec), get, f"{prefix}/attention", spec)
        hidden = _dense(_norm(x, get, f"{prefix}/mlp_norm", spec), get, f"{prefix}/mlp/dense_1")
        x = x + _dense(_gelu(hidden, spec), get, f"{prefix}/mlp/dense_2")
    return _norm(x, get, "encoder/norm", spec)


def logits(read, spec, images: np.ndarray) -> np.ndarray:
    x = forward(read, spec, images)[:, 0]
    if spec.pre_logits_size is not None:
        x = np.tanh(x @ read("pre_logits/kernel") + read("pre_logits/bias"))
    return x @ read("head/kernel") + read("head/bias")


def _dense(x, get, name):
    return x @ get(f"{name}/kernel") + get(f"{name}/bias")


def _norm(x, get, name, spec):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + spec.layer_norm_epsilon) * get(f"{name}/scale") + get(f"{name}/bias")


def _gelu(x, spec):
    if spec.gelu == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _attention(x, get, name, spec):
    n, t, _ = x.shape
    split = lambda y: y.reshape(n, t, spec.num_heads, spec.head_size).transpose(0, 2, 1, 3)  # noqa: E731
    q, k, v = (split(_dense(x, get, f"{name}/{part}")) for part in ("query", "key", "value"))
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(spec.head_size)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (weights / weights.sum(-1, keepdims=True)) @ v
    return _dense(mixed.transpose(0, 2, 1, 3).reshape(n, t, -1), get, f"{name}/output")
