"""Weights rounded by the error of the output: less of it than plain rounding leaves, and these levels in the file."""

from dataclasses import fields

import numpy as np
import pytest
from conftest import RandomParameters, build, toy_spec

from vit_export.artifacts.flatbuffer import MappedModel
from vit_export.deployment.graph import TFLITE, Graph
from vit_export.int8 import arithmetic
from vit_export.int8.answers import answers
from vit_export.int8.equalize import EqualizedParameters, Factors
from vit_export.int8.layer_choices import Layer
from vit_export.int8.modes import LayerModes, full_float, uniform
from vit_export.int8.reads import Reads, RoundedReads
from vit_export.int8.recipe import Recipe
from vit_export.int8.rounding import round_by_error
from vit_export.int8.simulate import Grams
from vit_export.int8.tune import tune
from vit_export.model.keras_model import build_model
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.saved_model import assign_parameters
from vit_export.tflite.int8 import write_int8_tflite

SPEC = toy_spec()
SOURCE = RandomParameters(SPEC)


def inputs(rows, channels, seed=0):
    """Rows of which a few directions are loud, as tokens are."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, channels)) * 0.95 ** np.arange(channels)) @ np.linalg.qr(
        random.standard_normal((channels, channels))
    )[0]


def noise(kernel, rounded, x):
    return float(np.square(x @ (kernel - rounded).T).sum())


def test_less_error_than_plain_rounding_on_rows_it_has_not_seen():
    kernel = np.random.default_rng(1).standard_normal((48, 96)).astype(np.float32)
    rows = inputs(2000, 96)
    seen, unseen = rows[:1000], rows[1000:]
    found = round_by_error(kernel, (seen.T @ seen).astype(np.float32)).values()
    plain = arithmetic.weights(kernel, axis=1)
    assert noise(kernel, found, unseen) < 0.5 * noise(kernel, plain, unseen)


def test_the_largest_weight_of_each_output_stays_so_that_the_scale_is_found_again():
    kernel = np.random.default_rng(2).standard_normal((16, 32)).astype(np.float32)
    kernel[3] = 0
    rows = inputs(200, 32).astype(np.float32)
    found = round_by_error(kernel, rows.T @ rows)
    alive = np.arange(16) != 3
    assert (np.abs(found.levels[alive]).max(axis=1) == 127).all()
    np.testing.assert_array_equal(found.scale[alive], np.abs(kernel[alive]).max(axis=1) / np.float32(127))
    assert not found.levels[3].any()


@pytest.mark.parametrize("gram", [np.zeros((8, 8), np.float32), np.ones((8, 8), np.float32)], ids=["dead", "rank one"])
def test_inputs_that_say_little_round_as_well_as_any(gram):
    kernel = np.random.default_rng(3).standard_normal((4, 8)).astype(np.float32)
    found = round_by_error(kernel, gram).values()
    scale = np.abs(kernel).max(axis=1, keepdims=True) / 127
    assert np.isfinite(found).all()
    assert (np.abs(found - kernel) < 4 * scale).all()


@pytest.mark.thorough
def test_the_file_holds_the_levels_that_were_chosen_and_int8_scores_alone(tmp_path):
    images = np.random.default_rng(0).standard_normal((8, SPEC.image_size, SPEC.image_size, 3)).astype(np.float32)
    modes = uniform(SPEC, LayerModes("dynamic", "scores", "dynamic"), patch="dynamic", head="dynamic")
    tuning = tune(SOURCE, images, modes)
    assert tuning.kernels
    path = tmp_path / "int8.tflite"
    record = ModelRecord(SPEC, Preprocessing(SPEC.image_size))
    write_int8_tflite(SOURCE, record, path, Recipe("auto", modes, tuning), list(images[:, np.newaxis]))
    model = MappedModel(path)
    tensors = {t.name.decode(): t for t in model.model.subgraphs[0].tensors}
    for name, levels in tuning.kernels.items():
        stored = model.data(tensors[name].buffer).view(np.int8).reshape(levels.levels.shape)
        np.testing.assert_array_equal(stored, levels.levels, err_msg=name)
    names = {name for name, t in tensors.items() if t.type == 9 and name.endswith(("/scores", "/mixed"))}  # INT8
    assert names == {f"encoder/layer_{i}/attention/scores" for i in range(SPEC.num_layers)}


def test_a_vector_off_every_key_and_value_changes_nothing():
    images = np.random.default_rng(0).standard_normal((3, SPEC.image_size, SPEC.image_size, 3)).astype(np.float32)
    attentions = [f"encoder/layer_{i}/attention" for i in range(SPEC.num_layers)]
    means = {attention: np.linspace(-3, 3, SPEC.hidden_size, dtype=np.float32) for attention in attentions}
    halved = {attentions[0]: np.full(SPEC.hidden_size, 2, np.float32)}
    answers = []
    for factors in (
        Factors(),
        Factors(key_means=means, queries=halved),
        Factors(value_means=means),
        Factors(value_means=means, values=halved),
    ):
        model = build_model(SPEC)
        assign_parameters(model, EqualizedParameters(SOURCE, factors).read)
        answers.append(model.predict_output(images))
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-4, atol=1e-5)


def test_what_a_rewrite_makes_of_a_gram_is_what_is_seen_after_it():
    images = np.random.default_rng(0).standard_normal((3, SPEC.image_size, SPEC.image_size, 3)).astype(np.float32)
    tokens = Graph(SPEC, Reads(SOURCE, Factors()), TFLITE, len(images)).embed(images)
    attention, width = "encoder/layer_0/attention", np.linspace(0.5, 3, SPEC.hidden_size, dtype=np.float32)
    norm = {f"{attention}_norm": width}
    rewrites = Factors(norms=norm, centres=norm, values={attention: width}, value_means={attention: width})
    layer = Layer(SOURCE, tokens, len(images), len(images), 0, full_float(SPEC))
    layer.factors = rewrites
    after = Grams(SPEC, Reads(SOURCE, rewrites), len(images))
    after.attention_branch(tokens, "encoder/layer_0", last=False)
    for dense, gram in after.found.items():
        np.testing.assert_allclose(layer._gram(dense), gram, rtol=1e-3, atol=1e-4 * np.abs(gram).max())
    assert set(after.found) == {f"{attention}/query", f"{attention}/output"}


def test_few_rows_are_not_rounded_by():
    tokens = np.ones((SPEC.mlp_size // 2 - 1, SPEC.hidden_size), np.float32)
    seen = Grams(SPEC, Reads(SOURCE, Factors()), 1)
    seen.mlp_branch(tokens, "encoder/layer_0")
    assert set(seen.found) == {"encoder/layer_0/mlp/dense_1"}


APART = {"encoder/layer_0/mlp": np.arange(16)}


@pytest.mark.parametrize("field", [field.name for field in fields(Factors)])
def test_weights_are_taken_over_where_they_are_the_same_alone(field):
    layer, numbers = "encoder/layer_0", np.random.default_rng(1)
    sites = {
        "norms": f"{layer}/attention_norm", "centres": f"{layer}/attention_norm", "outputs": f"{layer}/mlp/dense_2",
        "corrections": f"{layer}/attention/output", "outliers": f"{layer}/mlp",
    }  # fmt: skip

    def vector():
        if field == "outliers":
            return {sites[field]: np.sort(numbers.permutation(SPEC.mlp_size)[:16])}
        return {sites.get(field, f"{layer}/attention"): numbers.uniform(0.5, 2, SPEC.hidden_size).astype(np.float32)}

    plain = Factors(norms={f"{layer}/attention_norm": np.ones(SPEC.hidden_size, np.float32)}, outliers=APART)
    before, changed = RoundedReads(SOURCE, plain, {}), plain.also(**{field: vector()})
    fresh, names = RoundedReads(SOURCE, changed, {}), [name for name in before if name.startswith(layer)]
    old = {name: before[name] for name in names}
    taken = RoundedReads(SOURCE, changed, {}, before)
    differ = [name for name in names if not np.array_equal(old[name], fresh[name])]
    assert differ
    for name in names:
        np.testing.assert_array_equal(taken[name], fresh[name])
    assert any(taken[name] is old[name] for name in names)


def test_exact_answers_are_those_of_the_reference():
    images = np.random.default_rng(0).standard_normal((3, SPEC.image_size, SPEC.image_size, 3)).astype(np.float32)
    np.testing.assert_allclose(answers(SOURCE, images), build(SOURCE).predict_output(images), rtol=1e-4, atol=1e-5)
