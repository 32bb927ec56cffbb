"""What was moved between weights is read off them, and what any tool wrote is found in its file."""

import numpy as np
import pytest
from conftest import RandomParameters, toy_spec

from vit_export.artifacts.constants import read_constants
from vit_export.int8.equalize import EqualizedParameters, Factors, norm_groups
from vit_export.int8.told import KEY, TOLD, rounded_by_error, tell, told
from vit_export.model.parameters import layer_name, parameter_specs
from vit_export.verification.audit.constants import Uncertain, _difference
from vit_export.verification.audit.held import Held
from vit_export.verification.audit.matching import parameters_found
from vit_export.verification.audit.undo import Undone, undo
from vit_export.verification.audit.wiring import Read, misread

SPEC = toy_spec().with_(num_layers=2)
RANDOM = np.random.default_rng(0)
SOURCE = RandomParameters(SPEC)
WIDTH = SPEC.hidden_size
ATTENTIONS = [f"{layer_name(i)}/attention" for i in range(SPEC.num_layers)]


def spread():
    return np.exp(RANDOM.normal(0, 0.5, WIDTH)).astype(np.float32)


class Rounded:
    """The parameters of `source` as an int8 file holds them, its heads' channels of V in `orders`."""

    def __init__(self, source, orders=None):
        self.source, self.orders = source, orders or {}
        self.names = {parameter.name for parameter in parameter_specs(SPEC)}

    def __contains__(self, name):
        return name in self.names

    def read(self, name):
        values = self.source.read(name).astype(np.float64)
        owner = name.rpartition("/")[0]
        if owner in self.orders:
            values = values[..., self.orders[owner]]
        writer = owner.replace("dense_2", "dense_1").replace("output", "value")
        if writer != owner and writer in self.orders and name.endswith("/kernel"):
            values = values[self.orders[writer]]
        if not name.endswith("/kernel"):
            return Held(values, np.zeros((1,) * values.ndim), 2.0**-22)
        values = values.reshape(-1, values.shape[-1])
        step = np.maximum(np.abs(values).max(axis=0, keepdims=True), 1e-9) / 127
        return Held(np.rint(values / step) * step, step, 2.0**-22)


def test_factors_are_read_off_the_weights():
    factors = Factors(
        norms={norm: spread() for norm in norm_groups(SPEC)},
        centres={norm: RANDOM.normal(size=WIDTH).astype(np.float32) for norm in norm_groups(SPEC)},
        values={attention: spread() for attention in ATTENTIONS},
        queries={attention: spread() for attention in ATTENTIONS},
        key_means={attention: RANDOM.normal(size=WIDTH).astype(np.float32) for attention in ATTENTIONS},
    )
    known = Factors(key_means=factors.key_means)
    found = undo(Rounded(EqualizedParameters(SOURCE, factors)), SOURCE, known, query_factor=1.0, in_pairs=True)
    for kind, tolerance in (("norms", 1e-5), ("values", 5e-3), ("queries", 5e-3)):
        for name, vector in getattr(factors, kind).items():
            np.testing.assert_allclose(getattr(found.factors, kind)[name], vector, rtol=tolerance, err_msg=name)
    for norm, centre in factors.centres.items():
        np.testing.assert_allclose(found.factors.centres[norm], centre, atol=1e-5)
    assert found.orders == {}


def test_factors_of_outputs_are_read_as_they_stand():
    outputs = {"patch_embedding": spread(), f"{ATTENTIONS[0]}/output": spread()}
    factors = Factors(outputs=outputs, values={ATTENTIONS[0]: spread()})
    held = Rounded(EqualizedParameters(SOURCE, factors))
    held.names |= {f"{dense}/scale" for dense in outputs}
    found = undo(held, SOURCE, Factors(), query_factor=1.0, in_pairs=False).factors
    assert {*found.outputs} == {*outputs}
    np.testing.assert_allclose(found.outputs["patch_embedding"], outputs["patch_embedding"])
    np.testing.assert_allclose(found.values[ATTENTIONS[0]], factors.values[ATTENTIONS[0]], rtol=5e-3)


def test_nothing_is_read_off_what_was_only_rounded():
    found = undo(Rounded(SOURCE), SOURCE, Factors(), query_factor=1.0, in_pairs=True)
    assert (found.factors.values, found.factors.queries, found.orders) == ({}, {}, {})


def test_orders_are_read_off_the_weights():
    size = SPEC.head_size
    order = np.concatenate([head * size + RANDOM.permutation(size) for head in range(SPEC.num_heads)])
    orders = {f"{ATTENTIONS[1]}/value": order}
    found = undo(Rounded(SOURCE, orders), SOURCE, Factors(), query_factor=1.0, in_pairs=True)
    assert {*found.orders} == {*orders}
    np.testing.assert_array_equal(found.orders[f"{ATTENTIONS[1]}/value"], order)


def test_channels_without_weights_are_told_by_what_reads_them():
    owner = "encoder/layer_0/mlp/dense_1"
    kernel, bias = SOURCE.read(f"{owner}/kernel").copy(), SOURCE.read(f"{owner}/bias").copy()
    kernel[:, [1, 4, 7]] = bias[[1, 4]] = 0
    dead = SOURCE.replaced(f"{owner}/kernel", kernel).replaced(f"{owner}/bias", bias)
    order = RANDOM.permutation(SPEC.mlp_size)
    found = undo(Rounded(dead, {owner: order}), dead, Factors(), query_factor=1.0, in_pairs=True)
    np.testing.assert_array_equal(found.orders[owner], order)


MLP = f"{layer_name(0)}/mlp"
NAME = f"{MLP}/dense_1/kernel"


def judged(values, wanted, step, name=NAME, by_error=None):
    uncertain = Uncertain(Undone(Factors()), True, by_error, frozenset(), {}, {})
    return _difference(name, Held(values, step, 2.0**-22), wanted, uncertain)


def test_a_weight_may_be_off_by_half_a_step():
    wanted = RANDOM.normal(size=(64, 96))
    step = np.abs(wanted).max(axis=0, keepdims=True) / 127
    rounded = np.rint(wanted / step) * step
    assert judged(rounded, wanted, step) is None
    other = rounded.copy()
    other[3, 5] += 2 * step[0, 5]
    found = judged(other, wanted, step)
    assert found.detail.startswith(f"{NAME}[3, 5] is ")


def test_weights_that_make_up_for_each_other_may_be_off_by_more_but_no_channel_by_its_size():
    wanted = RANDOM.normal(size=(64, 96))
    step = np.abs(wanted).max(axis=0, keepdims=True) / 127
    by_error = np.rint(wanted / step + RANDOM.normal(0, 0.4, wanted.shape)) * step
    assert judged(by_error, wanted, step) is None
    assert judged(by_error, wanted, step, "head/kernel") is not None  # which nothing rounds so
    by_error[:, 7] *= 1.05
    step[:, 7] *= 1.05
    assert "output 7 by" in judged(by_error, wanted, step).detail


def test_the_files_own_record_says_which_kernels_are_held_to_their_nearest_levels():
    wanted = RANDOM.normal(size=(64, 96))
    step = np.abs(wanted).max(axis=0, keepdims=True) / 127
    nearest = np.rint(wanted / step) * step
    few, many = nearest.copy(), np.rint(wanted / step + RANDOM.normal(0, 0.4, wanted.shape)) * step
    few[3, 5] += 2 * step[0, 5]
    for values in (few, many):
        assert judged(values, wanted, step, by_error=frozenset({NAME})) is None
        assert judged(values, wanted, step, by_error=frozenset({"encoder/layer_1/mlp/dense_1/kernel"})) is not None
    few[3, 5] += 20 * step[0, 5]
    assert "by up to" in judged(few, wanted, step, by_error=frozenset({NAME})).detail


def test_what_tuning_did_is_told_and_understood():
    factors = Factors(
        key_means={ATTENTIONS[0]: spread()},
        corrections={f"{ATTENTIONS[0]}/output": spread()},
        outliers={MLP: np.array([2, 5])},
    )
    found = told({KEY: tell(factors)}, SPEC)
    np.testing.assert_array_equal(found.outliers[MLP], [2, 5])
    np.testing.assert_array_equal(found.key_means[ATTENTIONS[0]], factors.key_means[ATTENTIONS[0]])
    np.testing.assert_array_equal(
        found.corrections[f"{ATTENTIONS[0]}/output"], factors.corrections[f"{ATTENTIONS[0]}/output"]
    )
    assert found.values == {}


def test_which_kernels_were_rounded_by_error_is_told():
    assert rounded_by_error({KEY: tell(Factors(), {NAME: None})}) == {NAME}
    assert rounded_by_error({KEY: tell(Factors())}) == frozenset()
    assert {rounded_by_error(old) for old in ({}, {KEY: None}, {KEY: {}}, {KEY: {"rounded_by_error": 3}})} == {None}


@pytest.mark.parametrize(
    "kinds",
    [
        None,
        [],
        {"key_means": {}},
        {kind: {"x": "?"} for kind in TOLD},
        {kind: {"x": 3} for kind in TOLD},
        tell(Factors(key_means={"x": np.zeros(3, np.float32)})),
        tell(Factors(key_means={"x": np.full(WIDTH, np.nan, np.float32)})),
        *(
            {**tell(Factors()), "outliers": found}
            for found in (
                [],
                {MLP: 3},
                {MLP: []},
                {MLP: [1.0, 2.0]},
                {MLP: [2, 1]},
                {MLP: [1, 1]},
                {MLP: [-1, 1]},
                {MLP: ["1"]},
                {MLP: [0, SPEC.mlp_size]},
                {MLP: list(range(SPEC.mlp_size))},
                {MLP: [[1]]},
            )
        ),
    ],
)
def test_what_cannot_be_understood_tells_nothing(kinds):
    assert told({KEY: kinds}, SPEC) is None


def test_files_that_tell_of_no_outliers_have_none():
    kinds = tell(Factors())
    del kinds["outliers"]
    assert told({KEY: kinds}, SPEC).outliers == {}


def onnx_of(tensors, path):
    import onnx
    from onnx import helper, numpy_helper

    initializers = [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in tensors.items()]
    value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [value], initializers)
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_parameters_are_found_whatever_they_are_called(tmp_path):
    """Transposed, three in one, convolutions' order, and half of them only."""
    qkv = [SOURCE.read(f"{ATTENTIONS[0]}/{part}/kernel").T for part in ("query", "key", "value")]
    path = onnx_of(
        {
            "a": SOURCE.read("patch_embedding/kernel").transpose(3, 2, 0, 1),
            "b": np.concatenate(qkv),
            "c": SOURCE.read("position_embedding")[0],
            "d": SOURCE.read("head/kernel").T.astype(np.float16),
            "e": RANDOM.normal(size=(WIDTH, WIDTH)).astype(np.float32),
        },
        tmp_path / "foreign.onnx",
    )
    found, total = parameters_found(path, "onnx", SOURCE)
    assert found == 6
    assert total > 30


def test_constants_are_read_as_they_are_stored(tmp_path):
    tensors = {"half": np.float16([[1.5, -2]]), "whole": np.arange(6, dtype=np.int8).reshape(2, 3)}
    found = read_constants(onnx_of(tensors, tmp_path / "x.onnx"), "onnx")
    assert {name: (constant.shape, constant.dtype) for name, constant in found.items()} == {
        "half": ((1, 2), "float16"),
        "whole": ((2, 3), "int8"),
    }
    for name, values in tensors.items():
        np.testing.assert_array_equal(found[name].values(), values)


def dense(name):
    return Read("Gemm", ["x", f"{name}/kernel", f"{name}/bias"], [f"{name}:y"])


def test_operators_that_read_their_own_parameters_are_right():
    names = [
        f"{ATTENTIONS[0]}/value",
        f"{ATTENTIONS[0]}/query",
        f"{ATTENTIONS[0]}/output",
        "encoder/layer_0/mlp/dense_1",
    ]
    assert list(misread(map(dense, [*names, "head"]), SPEC)) == []


def test_channels_set_apart_are_read_behind_the_others():
    order = [f"{MLP}/{part}" for part in ("dense_1", "dense_2", "outliers/dense_1", "outliers/dense_2")]
    assert list(misread(map(dense, order), SPEC)) == []
    assert list(misread(map(dense, [*order[:2], *order[:1:-1]]), SPEC)) == [
        f"{MLP}/outliers/dense_1/{part} is read behind its layer" for part in ("kernel", "bias")
    ]
    crossed = Read("FULLY_CONNECTED", ["x", f"{MLP}/dense_1/kernel", f"{MLP}/outliers/dense_1/bias"], ["y"])
    assert "parameters of" in next(misread([crossed], SPEC))


def test_operators_that_read_anothers_parameters_are_named():
    first, second = ATTENTIONS
    crossed = Read("Gemm", ["x", f"{first}/query/kernel", f"{first}/key/bias"], ["y"])
    assert "parameters of" in next(misread([crossed], SPEC))
    assert list(misread(map(dense, [f"{second}/output", f"{first}/output"]), SPEC)) == [
        f"{first}/output/{part} is read behind its layer" for part in ("kernel", "bias")
    ]
    steps = [
        Read("MatMulInteger", ["x", f"{first}/output/kernel_quantized"], ["a"]),
        Read("Cast", ["a"], ["b"]),
        Read("Add", ["b", f"{second}/output/bias"], ["c"]),
    ]
    assert len(list(misread(steps, SPEC))) == 1


def test_what_an_output_is_multiplied_with_is_its_own():
    first, second = f"{layer_name(0)}/mlp/dense_2", f"{layer_name(1)}/mlp/dense_2"

    def layer(dense, scale):
        yield Read("FULLY_CONNECTED", ["x", f"{dense}/kernel", f"{dense}/bias"], [f"{dense}:0"])
        yield Read("MUL", [f"{dense}:0", f"{scale}/scale"], [f"{dense}:1"])

    assert list(misread([*layer(first, first), *layer(second, second)], SPEC)) == []
    assert list(misread([*layer(first, second), *layer(second, first)], SPEC))
    hidden = f"{layer_name(0)}/mlp/hidden"
    late = [*layer(second, second), Read("Mul", ["y", f"{hidden}/scale"], ["z"])]
    assert list(misread(late, SPEC)) == [f"{hidden}/scale is read behind its layer"]
