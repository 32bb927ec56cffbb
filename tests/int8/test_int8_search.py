"""The search for the fastest int8 mix that keeps a budget: what it measures, what it chooses, what it says."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import RandomParameters, toy_spec
from helpers.digits import PREPROCESSING, SPEC, DigitsParameters, held_out, pictures

from vit_export.artifacts.flatbuffer import MappedModel, operator_kinds
from vit_export.artifacts.read import precision_found, precision_of, read_facts
from vit_export.base.errors import InputError
from vit_export.base.signal import overall_sqnr_db
from vit_export.deployment.graph import TFLITE, deployment_graph
from vit_export.deployment.rewrites import folded_parameters
from vit_export.int8 import sensitivity
from vit_export.int8.budget import Budget, Measured
from vit_export.int8.equalize import Factors
from vit_export.int8.mixing import Mixes, stored
from vit_export.int8.modes import LayerModes, Modes, dynamic, full_float, static
from vit_export.int8.price import DYNAMIC_MS, INT8_MS, PRODUCTS_MS, price, total
from vit_export.int8.recipe import Recipe
from vit_export.int8.search import MOST_ROUNDS, search
from vit_export.int8.sensitivity import Component, Option, Sensitivity, components, measure_sensitivity
from vit_export.int8.tune import Tuning, tune
from vit_export.model.preprocessing import Preprocessing, normalize
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.runtimes.runner import open_runner
from vit_export.tflite.int8 import write_int8_tflite

pytestmark = pytest.mark.thorough


def decibels(noise):
    return -10 * math.log10(noise)


def simulated(source, images, agreement=None):
    """A `measure` that believes the prediction, and what was measured, in order."""
    measured, found = [], measure_sensitivity(source, images, Tuning())

    def measure(modes, tuning):
        sqnr_db = decibels(found.predicted(modes))
        measured.append(modes)
        return Measured(sqnr_db, None if agreement is None else agreement(sqnr_db))

    return measure, measured


class Digits:
    """The trained model with its tuning and sensitivity, and its files on held-out images."""

    def __init__(self, folder):
        pixels, _ = pictures()
        self.path, self.source = folder / "digits.tflite", DigitsParameters()
        self.images = normalize(pixels[~held_out()][:64], PREPROCESSING)
        self.held_out = normalize(pixels[held_out()][:150], PREPROCESSING)
        weights = {name: p.read() for name, p in folded_parameters(self.source).items()}
        self.expected = lambda images: deployment_graph(SPEC, images, weights, TFLITE).numpy()
        self.tuning = tune(self.source, self.images[:16], static(SPEC))
        self.sensitivity = measure_sensitivity(self.source, self.images, self.tuning)
        self.record = ModelRecord(SPEC, PREPROCESSING, {"source": "tests/helpers/digits.py", "trained": True})

    def measure(self, modes, tuning, images=None):
        images = self.held_out if images is None else images
        batches = [image[np.newaxis] for image in self.images]
        recipe = Recipe("auto", modes, tuning)
        write_int8_tflite(self.source, self.record, self.path, recipe, batches, overwrite=True)
        runner = open_runner(self.path, "tflite", 1)
        runner.load()
        found, reference = runner.run(images), self.expected(images)
        return Measured(overall_sqnr_db(reference, found), float((found.argmax(1) == reference.argmax(1)).mean()))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return Digits(tmp_path_factory.mktemp("search"))


MIXED = Modes(
    "float",
    (
        LayerModes("dynamic", "float", "static"),
        LayerModes("static", "int8", "dynamic"),
        LayerModes("float", "float", "dynamic"),
        LayerModes("dynamic", "int8", "float"),
    ),
    "float",
)


@pytest.mark.parametrize("modes", [static(SPEC), dynamic(SPEC), MIXED], ids=["static", "dynamic", "mixed"])
def test_prediction_is_what_the_file_has(digits, modes):
    measured = digits.measure(modes, digits.sensitivity.tuning(modes), digits.images)
    # Noises of layers are added as if nothing joined them; of dynamic Dense, 1.05 dB are between sum and file.
    assert decibels(digits.sensitivity.predicted(modes)) == pytest.approx(measured.sqnr_db, abs=1.2)


@pytest.mark.slow
def test_trained_model_keeps_40_db_for_less_than_dynamic(digits):
    seen = []
    budget = Budget(min_sqnr=40, min_agreement=0.99)
    choice = search(
        digits.source, digits.images, digits.tuning, digits.measure, budget, lambda done, total: seen.append(done)
    )
    print("\n".join(choice.explained()))
    assert choice.met
    assert choice.start.sqnr_db < 40 <= choice.measured.sqnr_db
    assert choice.measured.agreement >= 0.99
    assert choice.steps[-1].price == pytest.approx(total(SPEC, choice.modes))
    assert 0 < total(SPEC, choice.modes) < total(SPEC, dynamic(SPEC)) / 3
    assert seen == list(range(SPEC.num_layers + 1))
    # What was measured is what the caller writes.
    again = digits.measure(choice.modes, choice.tuning)
    assert again == choice.measured


def test_float_stays_float_in_the_file(tmp_path, spec, source, record, images):
    """Weights of a Dense that a mix leaves in float are not rounded either."""
    layers = (LayerModes("float", "float", "static"), LayerModes("static", "int8", "float"), LayerModes())
    path = tmp_path / "mixed.tflite"
    recipe = Recipe("auto", Modes("float", layers, "float"))
    write_int8_tflite(source, record, path, recipe, [image[np.newaxis] for image in images])
    model = MappedModel(path).model
    kinds, graph = operator_kinds(model), model.subgraphs[0]
    names = {"patch_embedding": [], "logits": [], "attention": [[], [], []], "mlp": [[], [], []]}
    for operator in graph.operators:
        if kinds[operator.opcodeIndex] == "FULLY_CONNECTED":
            output = graph.tensors[operator.outputs[0]].name.decode()
            small = graph.tensors[operator.inputs[1]].type == 9  # TensorType.INT8
            if output.startswith("encoder/layer_"):
                names[output.split("/")[2]][int(output.split("/")[1][-1])].append(small)
            else:
                names[next(key for key in names if output.startswith(key))].append(small)
    assert names == {
        "patch_embedding": [False],
        "logits": [False],
        "attention": [[False] * 4, [True] * 4, [True] * 4],
        "mlp": [[True] * 2, [False] * 2, [True] * 2],
    }


def test_sensitive_layer_is_moved_first(spec, source, images):
    """Two value channels 40 times the others', which changes nothing in float."""
    value, output = (f"encoder/layer_1/attention/{name}" for name in ("value", "output"))
    factor = np.where(np.arange(spec.hidden_size) < 2, 40, 1).astype(np.float32)
    sensitive = source
    for part in ("kernel", "bias"):
        sensitive = sensitive.replaced(f"{value}/{part}", source.read(f"{value}/{part}") * factor)
    sensitive = sensitive.replaced(f"{output}/kernel", source.read(f"{output}/kernel") / factor[:, np.newaxis])
    measure, _ = simulated(sensitive, images)
    start = measure(static(spec), None).sqnr_db
    choice = search(sensitive, images, Tuning(), measure, Budget(start + 2))
    assert choice.met
    first = next(step for step in choice.steps if step.component.layer >= 0)
    assert first.component == Component(1, "attention")
    assert any(sentence.startswith("encoder layer 1 attention: static Dense, int8") for sentence in choice.explained())


def test_same_inputs_same_choice(spec, source, images):
    measure, _ = simulated(source, images)
    budget = Budget(measure(static(spec), None).sqnr_db + 2)
    first, second = (search(source, images, Tuning(), measure, budget) for _ in range(2))
    assert first.steps
    assert json.dumps(first.to_dict(), allow_nan=False) == json.dumps(second.to_dict(), allow_nan=False)
    assert first.explained() == second.explained()


def test_static_is_enough(source, images):
    measured = []

    def measure(modes, tuning):
        measured.append(modes)
        return Measured(36.0, 1.0)

    def progress(done, total):
        raise AssertionError("noise is measured without need")

    choice = search(source, images, Tuning(), measure, Budget(35, 0.99), progress)
    assert choice.met
    assert choice.steps == ()
    assert measured == [choice.modes] == [static(source.spec)]
    assert choice.explained() == [
        "everything static: 36.0 dB, 100.0 % of the top classes measured, which is enough",
    ]
    assert json.loads(json.dumps(choice.to_dict(), allow_nan=False))["predicted_static_db"] is None


def test_impossible_budget(spec, source, images):
    measure, measured = simulated(source, images)
    choice = search(source, images, Tuning(), measure, Budget(150))
    assert not choice.met
    assert len(measured) == choice.rounds == 2
    assert choice.measured.sqnr_db > measure(dynamic(spec), None).sqnr_db
    assert precision_of(stored(spec, choice.modes)) == "int8"
    assert choice.explained()[-1] == (
        "no int8 mix that was found keeps 150 dB, and this is the best of them: verification judges it by limits of "
        "its own; ask for less, or choose float16 to keep more"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"num_layers": 12, "mlp_size": 192},
        {"num_layers": 9, "mlp_size": 120, "num_registers": 4},
        {"positions": "rotary", "num_registers": 1, "num_classes": 1},
        {"pooling": "attention", "pre_logits_size": 24},
    ],
    ids=str,
)
def test_a_file_of_the_most_float_is_an_int8_file(overrides, tmp_path):
    """By what verification takes for one, to the byte: with another part in float it would be none."""
    spec = replace(toy_spec(), **overrides)
    noise = {(c, o): 1.0 + (o.dense == "dynamic") for c in components(spec) for o in c.options if o.dense != "float"}
    modes = Mixes(spec, Sensitivity(noise, {}, Tuning(), 1)).cheapest(0.0)
    source, path = RandomParameters(spec), tmp_path / "most.tflite"
    images = np.random.default_rng(0).normal(size=(2, 1, *spec.image_sides, 3)).astype(np.float32)
    record = ModelRecord(spec, Preprocessing(spec.image_size), {"source": "test"})
    write_int8_tflite(source, record, path, Recipe("auto", modes), list(images))
    facts = read_facts(path)
    assert facts.matrices == stored(spec, modes)
    assert precision_found(facts) == "int8"
    for part in components(spec):
        if part.of(modes).dense != "float":
            more = stored(spec, part.put(modes, Option("float")))
            assert precision_of(more) == "float32" or part.layer < 0, part


def test_agreement_alone(spec, source, images):
    """No prediction says which noise an agreement needs: it is found by trying, and not far exceeded."""
    probe, _ = simulated(source, images)
    needed = probe(static(spec), None).sqnr_db + 2
    measure, measured = simulated(source, images, lambda sqnr_db: 1.0 if sqnr_db >= needed else 0.9)
    choice = search(source, images, Tuning(), measure, Budget(min_agreement=0.99))
    assert choice.met
    assert choice.measured.agreement == 1.0
    assert needed <= choice.measured.sqnr_db < needed + 1.5
    assert 2 <= len(measured) == choice.rounds <= MOST_ROUNDS
    kept = [modes for modes in tuple(measured) if measure(modes, None).agreement == 1]
    assert total(spec, choice.modes) == min(total(spec, modes) for modes in kept)


@pytest.mark.parametrize("error_db", [-3.0, 3.0])
def test_wrong_predictions_are_made_up_for(spec, source, images, error_db):
    """Files that are worse or better than predicted by as many decibels, everything static excepted."""
    predicted, _ = simulated(source, images)

    def measure(modes, tuning):
        sqnr_db = predicted(modes, tuning).sqnr_db
        return Measured(sqnr_db if modes == static(spec) else sqnr_db + error_db)

    wanted = predicted(static(spec), None).sqnr_db + 2
    choice = search(source, images, Tuning(), measure, Budget(wanted))
    assert choice.met
    assert wanted <= choice.measured.sqnr_db
    honest = search(source, images, Tuning(), predicted, Budget(wanted))
    assert (total(spec, choice.modes) > total(spec, honest.modes)) == (error_db < 0)


def test_mixes_are_the_cheapest_there_are():
    spec = replace(toy_spec(num_classes=200), num_layers=2)
    random = np.random.default_rng(0)
    noise = {}
    for component in components(spec):
        drawn = np.sort(random.exponential(1e-4, len(component.options)))[::-1]
        noise.update({(component, option): float(x) for option, x in zip(component.options[:-1], drawn, strict=False)})
    found = Sensitivity(noise, {}, Tuning(), 1)
    mixes, parts = Mixes(spec, found), components(spec)
    every = []
    for options in itertools.product(*(part.options for part in parts)):
        modes = static(spec)
        for part, option in zip(parts, options, strict=True):
            modes = part.put(modes, option)
        exact = any(option.dense == "float" for part, option in zip(parts, options, strict=True) if part.layer >= 0)
        if not exact and precision_of(stored(spec, modes)) == "int8":
            every.append((found.predicted(modes), total(spec, modes)))
    least = min(noise for noise, _ in every)
    targets = np.geomspace(found.predicted(static(spec)), least, 20) * (1 + 1e-9)
    prices = []
    for target in targets:
        modes = mixes.cheapest(target)
        assert found.predicted(modes) <= target
        prices.append(total(spec, modes))
        assert prices[-1] == pytest.approx(min(paid for noise, paid in every if noise <= target))
    assert mixes.cheapest(targets[0]) == static(spec)
    assert prices == sorted(prices)
    # Below that, float weights help, as few as possible.
    modes = mixes.cheapest(least * 0.95)
    assert sum(part.of(modes).dense == "float" for part in parts if part.layer >= 0) == 1


def test_prices_are_those_measured_at_s16():
    spec = ViTSpec.of("vit_s16")
    inner = [component for component in components(spec) if 0 <= component.layer < spec.num_layers - 1]
    wide = [component for component in inner if component.part == "attention"]
    dense = sum(price(spec, c, Option("dynamic", "int8")) for c in inner)
    products = sum(price(spec, c, Option("static", "float")) for c in wide)
    assert dense / products == pytest.approx(DYNAMIC_MS / PRODUCTS_MS)
    # The last layer computes one row, so that the whole is between 11 and 12 layers.
    assert PRODUCTS_MS / INT8_MS < products * 12 / 11 < PRODUCTS_MS / INT8_MS * 12 / 11
    last = spec.num_layers - 1
    for component in components(spec):
        paid = [price(spec, component, option) for option in component.options]
        assert paid[0] == 0 == total(spec, static(spec))
        assert len(set(paid)) == len(paid)
        assert max(paid) == paid[-1]
    assert (
        price(spec, Component(last, "mlp"), Option("dynamic"))
        < price(spec, Component(0, "mlp"), Option("dynamic")) / 99
    )


def test_several_passes_measure_the_same(monkeypatch, source, images):
    whole = measure_sensitivity(source, images, Tuning())
    seen = []
    monkeypatch.setattr(sensitivity, "STREAM_BYTES", 1)
    parts = measure_sensitivity(source, images, Tuning(), lambda done, total: seen.append((done, total)))
    assert parts.noise.keys() == whole.noise.keys()
    assert all(parts.noise[key] == pytest.approx(noise, rel=2e-3) for key, noise in whole.noise.items())
    assert seen == [(done, 6) for done in range(7)]  # 3 layers, then 2, then 1


def test_every_quantized_option_makes_noise(source, images):
    found = measure_sensitivity(source, images, Tuning())
    for component in components(source.spec):
        for option in component.options:
            assert (found.of(component, option) > 0) == (option.dense != "float")
    assert found.predicted(full_float(source.spec)) == 0


def test_corrections_go_with_the_options(digits):
    """A mix gets the bias corrections of what it is made of, and the factors and clips of the tuning as they are."""
    found = digits.sensitivity
    tuned, mixed = found.tuning(static(SPEC)), found.tuning(MIXED)
    # Those of the static tuning were made by fewer images, but the same way.
    assert tuned.factors.corrections.keys() <= {
        f"encoder/layer_{i}/{d}" for i in range(4) for d in ("attention/output", "mlp/dense_2")
    }
    assert "encoder/layer_3/mlp/dense_2" not in mixed.factors.corrections
    for name in ("norms", "centres", "values", "queries"):
        assert getattr(mixed.factors, name) == getattr(digits.tuning.factors, name)
    assert mixed.clips == digits.tuning.clips
    key = Component(0, "attention"), Option("dynamic", "float")
    (expected,) = found.corrections[key].values()
    np.testing.assert_array_equal(mixed.factors.corrections["encoder/layer_0/attention/output"], expected)


@pytest.mark.parametrize(
    "overrides",
    [{"num_classes": None}, {"pre_logits_size": 24}, {"num_classes": None, "pre_logits_size": 24, "num_layers": 1}],
    ids=["features", "pre-logits", "one layer"],
)
def test_every_kind_of_model(overrides, images):
    spec = replace(toy_spec(), **overrides)
    source = RandomParameters(spec)
    measure, _ = simulated(source, images)
    choice = search(source, images, Tuning(), measure, Budget(measure(static(spec), None).sqnr_db + 1))
    assert choice.met
    assert (Component(-1, "head") in components(spec)) == (len(overrides) > 1 or spec.pre_logits_size is not None)


def test_kept_norms_are_measured_with(digits, images):
    """Equalized LayerNorms stay in the graph; in float nothing changes by them."""
    source = DigitsParameters()
    names = ["encoder/layer_0/attention_norm"]
    factors = {name: np.linspace(0.5, 2, SPEC.hidden_size, dtype=np.float32) for name in names}
    found = measure_sensitivity(source, digits.images[:8], Tuning(Factors(norms=factors)))
    plain = measure_sensitivity(source, digits.images[:8], Tuning())
    key = Component(2, "mlp"), Option("static")
    assert found.of(*key) == pytest.approx(plain.of(*key), rel=0.05)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((None, None), "needs to know what to keep"),
        ((0.0, None), "is 0, expected dB above 0"),
        ((math.nan, None), "is nan, expected dB above 0"),
        ((math.inf, None), "is inf, expected dB above 0"),
        ((None, 99.0), "is 99, expected a share above 0 and up to 1"),
        ((None, 0.0), "is 0, expected a share"),
    ],
)
def test_budget_that_cannot_be(values, message):
    with pytest.raises(InputError, match=message):
        Budget(*values)


def test_features_have_no_top_class(images):
    spec = toy_spec(num_classes=None)
    with pytest.raises(InputError, match="has no classifier, so there is no top class to agree on"):
        search(RandomParameters(spec), images, Tuning(), pytest.fail, Budget(min_agreement=0.99))
