"""Every rewrite is exact in real arithmetic; in float32 it may move the last bits."""

import numpy as np
import pytest
from conftest import RandomParameters, toy_spec

from vit_export.base.errors import InputError
from vit_export.base.lazy import LazyTensor
from vit_export.deployment.rewrites import (
    FoldedInput,
    fold_bias,
    fold_kernel,
    folded_parameters,
    halved,
    plain_parameters,
)
from vit_export.model.input_kinds import KINDS, affine, feed
from vit_export.model.preprocessing import Preprocessing, normalize


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
        assert parameter.nbytes == value.nbytes


def test_only_the_norms_disappear(source, spec):
    gone = set(plain_parameters(source)) - set(folded_parameters(source))
    assert all("norm" in name for name in gone)
    assert len(gone) == 2 * (2 * spec.num_layers + 1)


def test_features_keep_the_final_norm():
    parameters = folded_parameters(RandomParameters(toy_spec(num_classes=None)))
    assert "encoder/norm/scale" in parameters
    assert "head/kernel" not in parameters


def random_preprocessing(seed, size=32):
    random = np.random.default_rng(seed)
    return Preprocessing(size, mean=tuple(random.uniform(0, 1, 3)), std=tuple(random.uniform(0.1, 1, 3)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [plain_parameters, folded_parameters])
@pytest.mark.parametrize("seed", range(3))
def test_the_input_folds_into_the_patch_embedding(kind, make, seed, source, spec):
    def embedded(parameters, images):
        size, patch = spec.image_size, spec.patch_size
        grid = size // patch
        cut = images.reshape(grid, patch, grid, patch, 3).transpose(0, 2, 1, 3, 4).reshape(grid * grid, -1)
        kernel = parameters["patch_embedding/kernel"].read()
        kernel = kernel.T if make is folded_parameters else kernel
        return cut.astype(np.float32) @ kernel + parameters["patch_embedding/bias"].read()

    preprocessing = random_preprocessing(seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    expected = embedded(make(source), normalize(pixels, preprocessing))
    folded = FoldedInput(source, preprocessing, kind)
    found = embedded(make(folded), feed(pixels, kind, preprocessing))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected))
    for parameter in make(folded).values():
        assert parameter.read().dtype == np.float32
        if kind == "normalized" or not parameter.name.startswith("patch_embedding/"):
            np.testing.assert_array_equal(parameter.read(), make(source)[parameter.name].read())


def test_the_folded_bias_is_that_of_the_stored_kernel(source, spec):
    """However coarsely the kernel is stored, the mean colour still gives the original bias."""

    def coarse(kernel):
        assert kernel.shape == (spec.patch_size**2 * 3, spec.hidden_size)
        step = np.abs(kernel).max() / 3
        return (np.rint(kernel / step) * step).astype(np.float32)

    preprocessing = random_preprocessing(0)
    for kind in ("0..1", "0..255", "uint8"):
        folded = FoldedInput(source, preprocessing, kind, coarse)
        kernel = coarse(folded.read("patch_embedding/kernel").reshape(-1, spec.hidden_size))
        mean_colour = np.tile(affine(kind, preprocessing)[1], spec.patch_size**2)
        found = mean_colour @ kernel + folded.read("patch_embedding/bias")
        np.testing.assert_allclose(found, source.read("patch_embedding/bias"), atol=2e-6)


def test_half_a_tensor_is_rounded_when_it_is_read():
    values = np.float32([1.0001, 70_000])
    tensor = halved(LazyTensor.of("head/kernel", values))
    assert (tensor.dtype, tensor.nbytes) == (np.float16, 4)
    with pytest.raises(InputError, match="head/kernel contains 70000, which float16 cannot hold"):
        tensor.read()
    values[1] = 2
    np.testing.assert_array_equal(tensor.read(), np.float16([1, 2]))
