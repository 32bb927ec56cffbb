"""What makes int8 keep the answer: exact rewrites, the simulation of its arithmetic, the choices made by images."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import RandomParameters, build, record_of, toy_spec
from helpers.digits import PREPROCESSING, DigitsParameters, held_out, pictures
from helpers.outliers import Outliers, StreamOutliers

from vit_export.artifacts.flatbuffer import MappedModel, operator_kinds
from vit_export.base.quiet import import_tensorflow
from vit_export.deployment.graph import TFLITE, Graph
from vit_export.deployment.rewrites import Extras, folded_parameters
from vit_export.int8 import arithmetic, simulate
from vit_export.int8.equalize import EqualizedParameters, Factors, folding, norm_groups
from vit_export.int8.modes import SCHEMES, LayerModes, Modes, full_float, static, uniform
from vit_export.int8.reads import Reads, RoundedReads
from vit_export.int8.recipe import Recipe
from vit_export.int8.simulate import Simulation, rounded
from vit_export.int8.tune import MOST_SEEN, Tuning, images_wanted, tune
from vit_export.model.parameters import layer_name, parameter_specs
from vit_export.model.preprocessing import normalize
from vit_export.model.spec import ViTSpec
from vit_export.runtimes.runner import open_runner
from vit_export.tflite.int8 import agreement_of_halves, prepare, write_int8_tflite
from vit_export.tflite.quantize import Rule, calibrate, write_int8
from vit_export.tflite.write import write_tflite

import_tensorflow()

SPEC = toy_spec()
SOURCE = RandomParameters(SPEC)


def sqnr(wanted, found):
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum()))


def relative(wanted, found):
    return float(np.abs(wanted - found).max() / np.ptp(wanted))


def images_for(spec, count=6):
    return np.random.default_rng(5).uniform(-1, 1, (count, spec.image_size, spec.image_size, 3)).astype(np.float32)


def vector(seed, low=0.2, high=5.0):
    return np.random.default_rng(seed).uniform(low, high, SPEC.hidden_size).astype(np.float32)


NORMS = {norm: vector(i) for i, norm in enumerate(norm_groups(SPEC))}
ATTENTIONS = {f"{layer_name(i)}/attention": vector(i + 20) for i in range(SPEC.num_layers)}

REWRITES = {
    "norms": Factors(norms=NORMS),
    "norms and centres": Factors(norms=NORMS, centres={norm: vector(40, -1, 1) for norm in NORMS}),
    "values": Factors(values=ATTENTIONS),
    "queries": Factors(queries=ATTENTIONS),
    "all": Factors(NORMS, {norm: vector(41, -1, 1) for norm in NORMS}, ATTENTIONS, ATTENTIONS),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", REWRITES)
def test_each_rewrite_is_the_same_function(name):
    images = images_for(SPEC)
    found = build(EqualizedParameters(SOURCE, REWRITES[name])).predict_output(images)
    assert relative(build(SOURCE).predict_output(images), found) < 1e-5
    changed = [
        p.name
        for p in parameter_specs(SPEC)
        if np.abs(EqualizedParameters(SOURCE, REWRITES[name]).read(p.name) - SOURCE.read(p.name)).max() > 1e-3
    ]
    assert len(changed) >= 3 * SPEC.num_layers  # it did something


def test_a_rewrite_that_is_only_half_done_is_another_function():
    class Half(EqualizedParameters):
        def _rows(self, attention, projection, norm):
            return None

    images = images_for(SPEC)
    found = build(Half(SOURCE, REWRITES["values"])).predict_output(images)
    assert relative(build(SOURCE).predict_output(images), found) > 1e-2


def test_folding_is_the_same_function_and_gives_the_kernels_of_a_tflite_file():
    scale = SOURCE.read("encoder/layer_1/mlp_norm/scale").copy()
    scale[5] = 0
    source = SOURCE.replaced("encoder/layer_1/mlp_norm/scale", scale)
    kept = next(iter(NORMS))
    factors = Factors(norms={kept: NORMS[kept]}, values=ATTENTIONS)
    found = EqualizedParameters(source, folding(source, factors))
    images = images_for(SPEC)
    assert relative(build(source).predict_output(images), build(found).predict_output(images)) < 1e-5
    tflite = folded_parameters(EqualizedParameters(source, factors), extras=Extras(frozenset({kept})))
    for norm, group in norm_groups(SPEC).items():
        assert (np.isin(found.read(f"{norm}/scale"), (0, 1)).all()) == (norm != kept)
        for dense in group:
            wanted = tflite[f"{dense}/kernel"].read().T
            if "/query/" not in f"{dense}/" and norm != "encoder/layer_1/mlp_norm":
                np.testing.assert_allclose(found.read(f"{dense}/kernel"), wanted, rtol=1e-5)


def test_outliers_are_the_same_function_and_large():
    images = images_for(SPEC)
    model = Outliers(SOURCE, 30)
    assert relative(build(SOURCE).predict_output(images), build(model).predict_output(images)) < 1e-5
    scale = np.abs(model.read("encoder/layer_0/mlp_norm/scale"))
    assert np.sort(scale)[-4] > 10 * np.median(scale)


# Arithmetic


def test_asymmetric_levels():
    x = np.float32([-1, -0.2, 0, 0.1, 2.9, 3, 9])
    found = arithmetic.asymmetric(x, -1, 3).numpy()
    step = 4 / 255
    np.testing.assert_allclose(found[:-1], x[:-1], atol=step)  # a zero point is rounded too
    assert found[2] == 0
    assert found[-1] == pytest.approx(found[-2])  # clipped
    np.testing.assert_allclose(found / step, np.round(found / step), atol=1e-4)


def test_symmetric_levels():
    x = np.float32([-5, -1, 0, 0.004, 1])
    np.testing.assert_allclose(arithmetic.symmetric(x, 1.0).numpy(), [-1, -1, 0, 1 / 127, 1], atol=1e-6)


def test_each_row_has_its_own_range():
    x = np.float32([[0, 255], [0, 2.55], [-1.27, 1.28]])
    found = arithmetic.per_row(x).numpy()
    np.testing.assert_allclose(found, x, atol=1e-6)
    coarse = arithmetic.asymmetric(x, -1.27, 255).numpy()
    assert np.abs(coarse - x)[1:].max() > 0.2


def test_weights_have_a_scale_per_output_channel():
    kernel = np.float32([[100, 50], [0.1, 0.05], [0, 0]])
    found = arithmetic.weights(kernel, axis=1)
    np.testing.assert_allclose(found, kernel, rtol=0.01)
    assert np.abs(arithmetic.weights(kernel, axis=0)[1]).max() == 0  # the small ones are gone in a scale of their row


# Simulation


def simulated(source, modes, images, tuning=None):
    """Logits by simulation of the whole model."""
    tuning = tuning or Tuning()
    parameters = folded_parameters(tuning.apply(source), extras=tuning.extras)
    everything = modes == full_float(source.spec)
    weights = {n: p.read() if everything else rounded(n, p.read()) for n, p in parameters.items()}
    if not everything:
        weights |= {name: levels.values() for name, levels in tuning.kernels.items()}
    graph = Simulation(source.spec, weights, len(images), modes, tuning.clips)
    tokens = graph.embed(images)
    for index in range(source.spec.num_layers):
        tokens = graph.encoder_layer(tokens, layer_name(index), last=index == source.spec.num_layers - 1)
    return graph.answer(tokens).numpy()


def file_of(source, recipe, images, folder):
    path = folder / "int8.tflite"
    write_int8_tflite(source, record_of(source.spec), path, recipe, list(images[:, np.newaxis]), overwrite=True)
    return path


def outputs(path, images):
    runner = open_runner(path, "tflite")
    runner.load()
    return runner.run(images)


MIXED = Modes("static", (LayerModes("dynamic", "int8", "static"), LayerModes("static", "float", "dynamic")), "dynamic")


def test_without_rounding_the_simulation_is_the_model():
    images = images_for(SPEC)
    assert relative(build(SOURCE).predict_output(images), simulated(SOURCE, full_float(SPEC), images)) < 1e-5


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*SCHEMES, "mixed"])
def test_the_simulation_predicts_the_file(name, tmp_path):
    spec = toy_spec().with_(num_layers=2)
    source, images = RandomParameters(spec), images_for(spec, 64)
    modes = MIXED if name == "mixed" else SCHEMES[name](spec)
    wanted = build(source).predict_output(images)
    found = outputs(file_of(source, Recipe(name, modes), images, tmp_path), images)
    assert sqnr(wanted, found) == pytest.approx(sqnr(wanted, simulated(source, modes, images)), abs=1.0)


def test_a_file_computes_in_the_modes_asked_for(tmp_path):
    spec = toy_spec().with_(num_layers=2)
    images = images_for(spec)
    path = file_of(RandomParameters(spec), Recipe("mixed", MIXED), images, tmp_path)
    model = MappedModel(path).model
    graph, kinds = model.subgraphs[0], operator_kinds(model)
    types = {t.name.decode(): t.type for t in graph.tensors}
    seen = Counter()
    for operator in graph.operators:
        kind, name = kinds[operator.opcodeIndex], graph.tensors[operator.outputs[0]].name.decode()
        of = [graph.tensors[i].type for i in (operator.inputs[0], operator.outputs[0])]
        if kind in ("FULLY_CONNECTED", "BATCH_MATMUL"):
            seen[kind] += 1
            modes = MIXED.products(name) if kind == "BATCH_MATMUL" else MIXED.dense(_dense_of(name))
            assert (set(of) == {9}) == (modes in ("static", "int8")), name
            if kind == "FULLY_CONNECTED":
                assert graph.tensors[operator.inputs[1]].type == 9, name  # int8 weights, dynamic or not
    assert seen == {"FULLY_CONNECTED": 14, "BATCH_MATMUL": 4}
    assert types["images"] == 0


def _dense_of(name):
    return {"logits": "head"}.get(name, name)


def test_modes_know_what_they_need_and_tell_what_they_are():
    assert static(SPEC).need_ranges
    assert not SCHEMES["dynamic"](SPEC).need_ranges
    assert uniform(SPEC, LayerModes("dynamic", "int8", "dynamic"), patch="dynamic", head="dynamic").need_ranges
    assert MIXED.to_dict()["encoder_layers"] == [
        {"layers": [0], "attention": "dynamic", "products": "int8", "mlp": "static"},
        {"layers": [1], "attention": "static", "products": "float", "mlp": "dynamic"},
    ]
    assert static(SPEC).to_dict()["encoder_layers"][0]["layers"] == [0, 1, 2]


# Tuning


@pytest.mark.thorough
def test_tuning_is_exact_but_for_its_corrections():
    images = images_for(SPEC, 8)
    source = Outliers(SOURCE, 30)
    tuning = tune(source, images, static(SPEC))
    exact = Tuning(tuning.factors.__class__(**{**vars(tuning.factors), "corrections": {}}))
    wanted = build(SOURCE).predict_output(images)
    assert relative(wanted, simulated(source, full_float(SPEC), images, exact)) < 1e-5
    whole = replace(exact, factors=replace(exact.factors, outliers={}))  # Keras knows no groups of channels
    assert relative(wanted, build(whole.apply(source)).predict_output(images)) < 1e-5
    assert len(tuning.layers) == SPEC.num_layers
    for layer in tuning.layers:
        assert layer.value_strength is not None  # outliers in V leave no choice
        assert layer.attention_error[1] < 0.1 * layer.attention_error[0]


@pytest.mark.thorough
def test_bias_correction_takes_the_mean_error_away(monkeypatch):
    """Kernels whose rounding errors all point one way, and an input that is never 0 on average."""

    class OneWay(RandomParameters):
        def read(self, name):
            values = super().read(name)
            if not name.endswith("/dense_2/kernel"):
                return values
            step = np.abs(values).max(0) / 127
            return np.where(np.abs(values) < 126.5 * step, (np.floor(values / step) + 0.4) * step, values)

    # Weights rounded by error make up for it by themselves.
    monkeypatch.setattr(simulate, "ROWS", np.inf)
    images, source = images_for(SPEC, 32), OneWay(SPEC)
    tuning = tune(source, images, SCHEMES["dynamic"](SPEC))
    assert not tuning.kernels
    plain = replace(tuning, factors=replace(tuning.factors, corrections={}))
    graph = Graph(SPEC, Reads(source, Factors()), TFLITE, len(images))
    prefix, tokens = layer_name(0), graph.embed(images)
    tokens += graph.attention_branch(tokens, prefix, last=False)

    def mean_error(tuning):
        weights = RoundedReads(source, tuning.factors, tuning.kernels)
        found = Simulation(SPEC, weights, len(images), SCHEMES["dynamic"](SPEC)).mlp_branch(tokens, prefix)
        return float(np.abs((found - graph.mlp_branch(tokens, prefix)).numpy().mean(0)).sum())

    assert mean_error(tuning) < 0.3 * mean_error(plain)


class LargeChannels(RandomParameters):
    """Five hidden channels of every MLP that are forty times the others."""

    channels = np.array([3, 17, 40, 41, 90])

    def read(self, name):
        values = super().read(name)
        if name.endswith("/dense_1/kernel"):
            values = values.copy()
            values[:, self.channels] *= 40
        if name.endswith("/dense_2/kernel"):
            values = values.copy()
            values[self.channels] /= 40
        return values


def test_large_hidden_channels_are_set_apart(tmp_path):
    images, source, spec = images_for(SPEC, 16), LargeChannels(SPEC), SPEC
    tuning = tune(source, images, SCHEMES["dynamic"](spec))
    assert set(tuning.factors.outliers) == {f"{layer_name(i)}/mlp" for i in range(spec.num_layers)}
    for channels in tuning.factors.outliers.values():
        assert set(LargeChannels.channels) <= set(channels)
        assert len(channels) == 16
    wanted = build(source).predict_output(images)
    exact = Tuning(replace(tuning.factors, corrections={}))
    assert relative(wanted, simulated(source, full_float(spec), images, exact)) < 1e-5
    # Dense layers of one size have one range for all: what they lose, and what the file keeps.
    together = replace(tuning, factors=replace(tuning.factors, outliers={}), kernels={})
    one_range = simulated(source, SCHEMES["dynamic"](spec), images, together)
    path = tmp_path / "dynamic.tflite"
    write_int8_tflite(source, record_of(spec), path, Recipe("dynamic", SCHEMES["dynamic"](spec), tuning))
    found = np.concatenate([open_runner(path, "tflite").run(image[np.newaxis]) for image in images])
    assert sqnr(wanted, found) > sqnr(wanted, one_range) + 4
    names = {tensor.name.decode() for tensor in MappedModel(path).model.subgraphs[0].tensors}
    assert f"{layer_name(0)}/mlp/outliers/dense_2/kernel" in names


def test_images_are_fewer_for_larger_models():
    counts = [images_wanted(ViTSpec.of(name)) for name in ("vit_s32", "vit_b16", "vit_h14")]
    assert counts == sorted(counts, reverse=True)
    assert images_wanted(SPEC) == MOST_SEEN
    assert counts[-1] >= 2


@pytest.mark.thorough
def test_one_image_is_enough_to_not_break_a_model(tmp_path):
    spec = toy_spec().with_(num_layers=1)
    source, images = RandomParameters(spec), images_for(spec, 6)
    wanted = build(source).predict_output(images)
    recipe = prepare(source, "static", lambda count: images[:1])
    assert sqnr(wanted, outputs(file_of(source, recipe, images, tmp_path), images)) > 25


@pytest.fixture(scope="module")
def digits():
    images, _ = pictures()
    seen, unseen = normalize(images[~held_out()][:64], PREPROCESSING), normalize(images[held_out()], PREPROCESSING)
    return seen, unseen, build(DigitsParameters()).predict_output(unseen)


@pytest.mark.thorough
@pytest.mark.parametrize(("scheme", "least"), [("static", 38.0), ("dynamic", 42.5), ("full", 30.0), ("w8a16", 41.0)])
def test_outliers_cost_a_trained_model_nothing(scheme, least, digits, tmp_path):
    seen, unseen, wanted = digits
    source = Outliers(DigitsParameters(), 30)
    recipe = prepare(source, scheme, lambda count: seen[:count])
    found = outputs(file_of(source, recipe, seen, tmp_path), unseen)
    assert sqnr(wanted, found) > least
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.995


def test_without_rewrites_the_same_model_fails(digits, tmp_path):
    """The control: what the test above proves is not there by itself."""
    seen, unseen, wanted = digits
    source = Outliers(DigitsParameters(), 30)
    found = outputs(file_of(source, Recipe("static", static(source.spec)), seen, tmp_path), unseen)
    assert sqnr(wanted, found) < 25


@pytest.mark.thorough
@pytest.mark.parametrize(("scheme", "least"), [("static", 28), ("dynamic", 33), ("full", 23), ("w8a16", 32)])
def test_channels_of_the_residual_stream_far_above_the_rest(scheme, least, tmp_path):
    source, images = StreamOutliers(SOURCE), images_for(SPEC, 16)
    wanted = build(source).predict_output(images)
    recipe = prepare(source, scheme, lambda count: images[:count])
    found = outputs(file_of(source, recipe, images, tmp_path), images)
    assert sqnr(wanted, found) > least


@pytest.mark.thorough
def test_a_residual_stream_in_int8_loses_such_channels(tmp_path):
    """The control: `full` once was that, and good on every toy without them."""
    source, images = StreamOutliers(SOURCE), images_for(SPEC, 16)
    exact = tmp_path / "float32.tflite"
    write_tflite(source, record_of(SPEC), exact)
    every = tmp_path / "every.tflite"
    ranges = calibrate(exact, images[:, np.newaxis], len(images))
    write_int8(exact, record_of(SPEC), every, scheme="full", rules=(Rule(r".*", "*", "static"),), ranges=ranges)
    assert sqnr(build(source).predict_output(images), outputs(every, images)) < 20


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(Exception, match="needs a representative dataset"):
        write_int8_tflite(SOURCE, record_of(SPEC), tmp_path / "x.tflite", Recipe("static", static(SPEC)), [])
    with pytest.raises(Exception, match="Unknown int8 scheme 'best'"):
        prepare(SOURCE, "best", lambda count: images_for(SPEC, count))
    assert list(Path(tmp_path).iterdir()) == []


def test_two_halves_that_disagree_are_told(tmp_path):
    spec = toy_spec().with_(num_layers=1)
    source, images = RandomParameters(spec), np.repeat(images_for(spec, 4), 2, axis=0)
    alike = write_int8_tflite(
        source, record_of(spec), tmp_path / "a.tflite", Recipe("static", static(spec)), list(images[:, np.newaxis])
    )
    assert alike.quantization["agreement_of_halves"]["fifth_percentile"] == 1
    assert not alike.notes
    grey = images.copy()
    grey[::2] *= 0.01
    unlike = write_int8_tflite(
        source, record_of(spec), tmp_path / "b.tflite", Recipe("static", static(spec)), list(grey[:, np.newaxis])
    )
    assert unlike.quantization["agreement_of_halves"]["fifth_percentile"] < 0.5
    assert any("two halves" in note for note in unlike.notes)
    assert agreement_of_halves([{"x": (-1.0, 1.0)}, {"x": (-1.0, 0.0)}, {"x": (0.0, 3.0)}])["median"] == 0.25
    assert agreement_of_halves([{"x": (0.0, 1.0)}]) is None
