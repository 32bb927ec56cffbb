"""`full`: what of it is int8, where softmax·V is float instead, and the channels of what is added to the stream."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import RandomParameters, build, record_of, toy_spec

from vit_export.artifacts.flatbuffer import MappedModel, operator_kinds
from vit_export.base.adapters.litert import schema
from vit_export.base.quiet import import_tensorflow
from vit_export.deployment.graph import TFLITE, Graph
from vit_export.deployment.rewrites import folded_parameters
from vit_export.int8.equalize import EqualizedParameters, Factors
from vit_export.int8.modes import full
from vit_export.int8.products import within_budget
from vit_export.int8.tune import Tuning, tune
from vit_export.model.parameters import layer_name
from vit_export.runtimes.runner import open_runner
from vit_export.tflite.int8 import prepare, write_int8_tflite

import_tensorflow()

FEW = toy_spec(image_size=32).with_(num_layers=2)
MANY = toy_spec(image_size=128).with_(num_layers=2)  # 257 tokens


def images_for(spec, count=4):
    return np.random.default_rng(5).uniform(-1, 1, (count, spec.image_size, spec.image_size, 3)).astype(np.float32)


def types_of(path):
    """(kind, name of the output, its type) of each operator."""
    model = MappedModel(path).model
    graph, kinds = model.subgraphs[0], operator_kinds(model)
    for operator in graph.operators:
        made = graph.tensors[operator.outputs[0]]
        yield kinds[operator.opcodeIndex], made.name.decode(), made.type


def sqnr(wanted, found):
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum()))


class UnlikeOutputs:
    """A model whose branches add to a few channels of the residual stream a hundred times what they add to others."""

    def __init__(self, source):
        self.spec, self._source = source.spec, source

    def read(self, name):
        values = self._source.read(name).copy()
        if "/attention/output/" in name or "/mlp/dense_2/" in name or name.startswith("patch_embedding/"):
            values[..., 3:5] *= 100
        if name.endswith("norm/scale"):
            values[...] = 10
        if name.endswith("norm/bias"):
            values[3:5] = 0
        return values


@pytest.mark.thorough
def test_many_tokens_keep_the_answer_by_a_float_product(tmp_path):
    source, images = RandomParameters(MANY), images_for(MANY)
    recipe = prepare(source, "full", lambda count: images[:count])
    (note,) = recipe.notes
    assert "softmax and its product with the values are float" in note
    assert {layer.products for layer in recipe.modes.layers} == {"scores"}
    path = tmp_path / "full.tflite"
    artifact = write_int8_tflite(source, record_of(MANY), path, recipe, list(images[:, np.newaxis]))
    assert note in artifact.notes
    types = schema().TensorType
    for kind, name, type in types_of(path):
        if kind == "SOFTMAX" or (kind == "BATCH_MATMUL" and name.endswith("/mixed")):
            assert type == types.FLOAT32, name
        elif kind in ("BATCH_MATMUL", "FULLY_CONNECTED", "GELU"):
            assert type == types.INT8, name
    wanted = build(source).predict_output(images)
    plain = tmp_path / "plain.tflite"
    whole = replace(recipe, modes=full(MANY))
    write_int8_tflite(source, record_of(MANY), plain, whole, list(images[:, np.newaxis]))
    kept, lost = (sqnr(wanted, open_runner(p, "tflite").run(images)) for p in (path, plain))
    assert kept > lost + 1


@pytest.mark.thorough
def test_few_tokens_stay_in_int8_but_for_the_stream(tmp_path):
    source, images = RandomParameters(FEW), images_for(FEW, 8)
    modes, tuning, note = within_budget(source, images, full(FEW), Tuning())
    assert (modes, tuning, note) == (full(FEW), Tuning(), "")
    path = tmp_path / "full.tflite"
    recipe = prepare(source, "full", lambda count: images[:count])
    write_int8_tflite(source, record_of(FEW), path, recipe, list(images[:, np.newaxis]))
    types = schema().TensorType
    for kind, name, type in types_of(path):
        if kind in ("SOFTMAX", "BATCH_MATMUL", "FULLY_CONNECTED", "GELU"):
            assert type == types.INT8, name
        if kind in ("STRIDED_SLICE", "CONCATENATION") or (kind == "RESHAPE" and name.startswith("add")):
            assert type == types.FLOAT32, name


def test_channels_of_an_output_get_a_range_each():
    source, images = UnlikeOutputs(RandomParameters(FEW)), images_for(FEW, 6)
    factors = tune(source, images, full(FEW)).factors
    branches = {f"{layer_name(i)}/{dense}" for i in range(2) for dense in ("attention/output", "mlp/dense_2")}
    assert {"patch_embedding", *branches} == {*factors.outputs}
    for vector in factors.outputs.values():
        assert vector[3:5].min() > 10 * np.median(vector)


def test_factors_of_outputs_are_the_same_function():
    source, images = RandomParameters(FEW), images_for(FEW, 2)
    vector = np.random.default_rng(0).uniform(0.1, 10, FEW.hidden_size).astype(np.float32)
    names = ("patch_embedding", "encoder/layer_1/attention/output", "encoder/layer_0/mlp/dense_2")
    factors = Factors(outputs=dict.fromkeys(names, vector))

    def answer(factors):
        parameters = folded_parameters(EqualizedParameters(source, factors), extras=factors.extras)
        graph = Graph(FEW, {name: p.read() for name, p in parameters.items()}, TFLITE, len(images))
        tokens = graph.embed(images)
        for index in range(FEW.num_layers):
            tokens = graph.encoder_layer(tokens, layer_name(index), last=index == FEW.num_layers - 1)
        return graph.answer(tokens).numpy()

    np.testing.assert_allclose(answer(factors), answer(Factors()), atol=1e-4)


def test_few_images_clip_nothing_but_scores(monkeypatch):
    monkeypatch.setattr("vit_export.int8.layer_choices.ENOUGH", 5.0)  # whatever is tried is kept
    source, images = RandomParameters(FEW), images_for(FEW, 2)
    sites = {*tune(source, images, full(FEW)).clips}
    assert sites == {f"encoder/layer_0/attention/{site}" for site in ("scores", "scores/softmax")}
    monkeypatch.setattr("vit_export.int8.layer_choices.FEWEST_TO_CLIP", 2)
    assert sites < {*tune(source, images, full(FEW)).clips}
