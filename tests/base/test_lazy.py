"""Tensors read when their turn comes: what is announced is checked, and nothing is held."""

import weakref

import numpy as np
import pytest

from vit_export.base.errors import StructureError
from vit_export.base.lazy import LazyTensor, computed_together


def announced(array, shape=(2, 3), dtype=np.float32):
    return LazyTensor("head/kernel", shape, np.dtype(dtype), lambda: array)


@pytest.mark.parametrize(
    ("shape", "dtype", "nbytes"),
    [((2, 3), "float32", 24), ((), "int32", 4), ((0, 4), "float32", 0), ((5,), "uint8", 5)],
)
def test_bytes_are_known_without_reading(shape, dtype, nbytes):
    tensor = LazyTensor("x", shape, np.dtype(dtype), lambda: pytest.fail("it was read"))
    assert tensor.nbytes == nbytes


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int32"])
@pytest.mark.parametrize("shape", [(2, 3), (6,), (), (0, 4)])
def test_elements_are_the_bytes_in_order(shape, dtype):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    elements = announced(array, shape, dtype).elements()
    assert bytes(elements) == array.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    assert len(elements) == announced(array, shape, dtype).nbytes


def test_elements_of_a_transpose_are_in_c_order():
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert bytes(announced(array.T).elements()) == array.T.tobytes("C")


@pytest.mark.parametrize(
    ("array", "given"),
    [
        (np.zeros((3, 2), np.float32), r"gave float32 \(3, 2\)"),
        (np.zeros((2, 3), np.float64), r"gave float64 \(2, 3\)"),
        (np.zeros(6, np.float32), r"gave float32 \(6,\)"),
    ],
    ids=["transposed", "wider", "flat"],
)
def test_other_values_than_announced_are_refused(array, given):
    with pytest.raises(StructureError, match=rf"head/kernel {given}, announced as float32 \(2, 3\)"):
        announced(array).elements()


def test_a_tensor_of_an_array_is_that_array():
    array = np.arange(6, dtype=np.int8).reshape(2, 3)
    tensor = LazyTensor.of("x", array)
    assert (tensor.name, tensor.shape, tensor.dtype, tensor.nbytes) == ("x", (2, 3), np.int8, 6)
    assert tensor.read() is array


def test_nothing_is_held_after_reading():
    tensor = LazyTensor("x", (4,), np.dtype(np.float32), lambda: np.zeros(4, np.float32))
    array = tensor.read()
    alive = weakref.ref(array)
    elements = tensor.elements()
    del array, elements
    assert alive() is None


def test_tensors_computed_together_share_one_computation_and_drop_it():
    alive = []

    def compute():
        values = np.zeros((2, 3), np.uint8), np.ones(3, np.float32)
        alive.append([weakref.ref(array) for array in values])
        return values

    values, scale = computed_together([("values", (2, 3), np.uint8), ("scale", (3,), np.float32)], compute)
    assert (values.nbytes, scale.nbytes, alive) == (6, 12, [])
    assert bytes(values.elements()) == bytes(6)
    assert bytes(scale.elements()) == np.ones(3, "<f4").tobytes()
    assert len(alive) == 1
    assert [array() for array in alive[0]] == [None, None]
    values.read()  # a file written a second time
    assert len(alive) == 2
