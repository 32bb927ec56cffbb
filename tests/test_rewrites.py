"""Every rewrite is exact in real arithmetic; in float32 it may move the last bits."""

import numpy as np
import pytest
from conftest import RandomParameters, toy_spec

from vit_export.rewrites import fold_bias, fold_kernel, folded_parameters, plain_parameters, total_bytes


def test_layer_norm_folds_into_the_next_dense(source, spec):
    normed = np.random.default_rng(0).standard_normal((5, spec.hidden_size)).astype(np.float32)
    dense, norm = "encoder/layer_1/mlp/dense_1", "encoder/layer_1/mlp_norm"
    scaled = normed * source.read(f"{norm}/scale") + source.read(f"{norm}/bias")
    expected = scaled @ source.read(f"{dense}/kernel") + source.read(f"{dense}/bias")
    found = normed @ fold_kernel(source, dense, norm).T + fold_bias(source, dense, norm)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected))


def test_a_factor_folds_into_kernel_and_bias(source, spec):
    x = np.random.default_rng(0).standard_normal((5, spec.hidden_size)).astype(np.float32)
    dense = "encoder/layer_0/attention/query"
    expected = 0.25 * (x @ source.read(f"{dense}/kernel") + source.read(f"{dense}/bias"))
    found = x @ fold_kernel(source, dense, None, 0.25).T + fold_bias(source, dense, None, 0.25)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.ptp(expected))


@pytest.mark.parametrize("make", [plain_parameters, folded_parameters])
@pytest.mark.parametrize("num_classes", [10, None])
def test_announced_shapes_are_the_real_ones(make, num_classes):
    parameters = make(RandomParameters(toy_spec(num_classes=num_classes)))
    for name, parameter in parameters.items():
        value = parameter.read()
        assert (parameter.name, value.shape, value.dtype) == (name, parameter.shape, np.float32)
        assert value.flags.c_contiguous
    assert total_bytes(parameters) == sum(p.read().nbytes for p in parameters.values())


def test_only_the_norms_disappear(source, spec):
    gone = set(plain_parameters(source)) - set(folded_parameters(source))
    assert all("norm" in name for name in gone)
    assert len(gone) == 2 * (2 * spec.num_layers + 1)


def test_features_keep_the_final_norm():
    parameters = folded_parameters(RandomParameters(toy_spec(num_classes=None)))
    assert "encoder/norm/scale" in parameters
    assert "head/kernel" not in parameters
