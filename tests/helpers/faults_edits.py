"""Ways to spoil a file: other weights through the converters, edits of a graph, of bytes, of what is recorded.

A maker takes a Bench and a path, writes a faulty file there and returns the Artifact that would come with it. File and
Artifact claim to be what they were meant to be, except where a maker is said to be honest.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.faults_bench import Bench, Changed
from vit_export.artifacts.flatbuffer import MappedModel, operator_kinds
from vit_export.base.adapters.litert import schema
from vit_export.base.files import digest_of_file
from vit_export.base.lazy import LazyTensor
from vit_export.model.artifact import Artifact
from vit_export.model.parameters import ParameterSource, fingerprint_of
from vit_export.runtimes.runner import RunnerError, open_runner

Maker = Callable[[Bench, Path], Artifact]


def described_again(artifact: Artifact, path: Path, **changes) -> Artifact:
    """`artifact` with the facts of the file at `path`, as a converter would have recorded them of that."""
    facts: dict[str, Any] = {"path": str(path), "bytes": path.stat().st_size, "sha256": digest_of_file(path)}
    try:
        runner = open_runner(path, artifact.format)
    except RunnerError:  # then the file was meant to have the good one's inputs and outputs
        pass
    else:
        values, layout = artifact.inputs[0].values, artifact.inputs[0].layout
        facts["inputs"] = tuple(replace(entry, values=values, layout=layout) for entry in runner.inputs)
        facts["outputs"] = runner.outputs
    return replace(artifact, **facts, **changes)


# Spoilt weights, through the converters.


def reweighted(kind: str, change: Callable[[ParameterSource], Mapping[str, np.ndarray]], **options) -> Maker:
    """A file of other weights, in the reference's name; `change` gives the parameters that differ."""

    def make(bench, path):
        return bench.export(kind, path, Changed(bench.source, change(bench.source)), **options)

    return make


def outdated(kind: str, change: Callable[[ParameterSource], Mapping[str, np.ndarray]], **options) -> Maker:
    """A file of other weights that says so: all is well with it, but it is not the reference's."""

    def make(bench, path):
        source = Changed(bench.source, change(bench.source))
        return bench.export(kind, path, source, replace(bench.record, fingerprint=fingerprint_of(source)), **options)

    return make


def respecified(
    kind: str,
    change: Callable[[ParameterSource], Mapping[str, np.ndarray]] = lambda source: {},
    *,
    honest: bool = False,
    declared: str | None = None,
    input: str = "normalized",
    **changes,
) -> Maker:
    """A file of a model with `changes` to its spec, which its record admits if `honest`; `declared` is its input."""

    def make(bench, path):
        spec = bench.spec.with_(**changes)
        source = Changed(bench.source, change(bench.source), spec)
        pixels = replace(bench.record.preprocessing, image_size=spec.image_size)
        labels = bench.record.labels if spec.num_classes == bench.spec.num_classes else None
        own = replace(bench.record, spec=spec, preprocessing=pixels, labels=labels, fingerprint=fingerprint_of(source))
        artifact = bench.export(kind, path, source, own, input=input)
        if not honest:
            artifact = claiming(bench, artifact, {"input": declared or input})
        if declared:
            artifact = replace(artifact, inputs=(replace(artifact.inputs[0], values=declared),))
        return artifact

    return make


def claiming(bench: Bench, artifact: Artifact, changes: Mapping[str, Any]) -> Artifact:
    """`artifact`, its file's record the reference's with `changes`."""
    path = Path(artifact.path)
    text = json.dumps(
        {
            **bench.record.to_dict(),
            "precision": artifact.precision,
            "scheme": artifact.scheme,
            "input": artifact.inputs[0].values,
            **changes,
        }
    )
    if artifact.format == "onnx":
        import onnx

        model = onnx.load(path)
        next(entry for entry in model.metadata_props if entry.key == "vit_export").value = text
        onnx.save(model, path)
    else:
        from vit_export.tflite.stream import write_model
        from vit_export.tflite.structure import set_metadata

        mapped, files = MappedModel(path), associated_files(path)
        set_metadata(mapped.model, text)
        write_model(mapped.model, mapped.buffers, path, files=files, overwrite=True)
    return described_again(artifact, path)


# Spoilt files.


def edited_onnx(edit: Callable[[Any], None], kind: str = "onnx float32", **options) -> Maker:
    """The good file with its graph edited: `edit` gets the GraphProto."""

    def make(bench, path):
        import onnx

        from vit_export.onnx.value_names import sort_nodes

        good = bench.good(kind, **options)
        model = onnx.load(good.path)
        edit(model.graph)
        del model.graph.value_info[:]
        sort_nodes(model.graph)
        onnx.save(model, path)
        return described_again(good, path)

    return make


def edited_tflite(edit: Callable[["TFLiteFile"], None], kind: str = "tflite float32", **options) -> Maker:
    """The good file with its flatbuffer edited."""

    def make(bench, path):
        from vit_export.tflite.stream import write_model

        good = bench.good(kind, **options)
        file = TFLiteFile(Path(good.path))
        edit(file)
        write_model(file.mapped.model, file.mapped.buffers, path, files=associated_files(Path(good.path)))
        return described_again(good, path)

    return make


def edited_bytes(edit: Callable[[bytearray], bytearray], kind: str) -> Maker:
    """The good file's bytes edited after they were recorded."""

    def make(bench, path):
        good = bench.good(kind)
        path.write_bytes(edit(bytearray(Path(good.path).read_bytes())))
        return replace(good, path=str(path))

    return make


def recorded(kind: str, claims: Mapping[str, Any] | None = None, **changes) -> Maker:
    """The good file with another record inside (`claims`) and beside it (`changes` to the Artifact)."""

    def make(bench, path):
        good = bench.good(kind)
        path.write_bytes(Path(good.path).read_bytes())
        copy = replace(good, path=str(path), **changes)
        return claiming(bench, copy, claims) if claims else copy

    return make


def associated_files(path: Path) -> dict[str, bytes]:
    """What is in the zip behind a .tflite file, by name."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class TFLiteFile:
    """A .tflite file to be edited."""

    def __init__(self, path: Path) -> None:
        self.mapped = MappedModel(path)
        self.model, self.graph = self.mapped.model, self.mapped.model.subgraphs[0]

    def tensor(self, name: str) -> Any:
        return next(tensor for tensor in self.graph.tensors if tensor.name == name.encode())

    def operator(self, kind: str) -> Any:
        """The first operator of a kind."""
        kinds = operator_kinds(self.model)
        return next(operator for operator in self.graph.operators if kinds[operator.opcodeIndex] == kind)

    def change(self, name: str, dtype: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replace the elements of the constant `name`, [its shape], by `edit` of them."""
        tensor = self.tensor(name)
        before = self.mapped.data(tensor.buffer).view(dtype).reshape(tensor.shape)
        after = np.asarray(edit(before.copy()), before.dtype, order="C")
        assert after.shape == before.shape
        assert not np.array_equal(after, before)
        if tensor.buffer in self.mapped.buffers:
            self.mapped.buffers[tensor.buffer] = LazyTensor.of(name, after)
        else:
            self.model.buffers[tensor.buffer].data = after.reshape(-1).view(np.uint8)

    def append(self, kind: str) -> None:
        """Another operator of a kind that is in the file already, from the output to a new output of the same shape."""
        fb, alike = schema(), self.operator(kind)
        (last,) = self.graph.outputs
        before = self.graph.tensors[last]
        name, before.name = before.name, before.name + b"/before"
        new = fb.TensorT(name=name, shape=before.shape, type=before.type, buffer=0, hasRank=True)
        self.graph.tensors.append(new)
        index = len(self.graph.tensors) - 1
        self.graph.operators.append(
            fb.OperatorT(
                opcodeIndex=alike.opcodeIndex,
                inputs=[last],
                outputs=[index],
                builtinOptionsType=alike.builtinOptionsType,
                builtinOptions=alike.builtinOptions,
            )
        )
        self.graph.outputs = [index]
        self.model.signatureDefs[0].outputs[0].tensorIndex = index


# Edits of an ONNX graph.


def node_of(graph: Any, name: str) -> Any:
    return next(node for node in graph.node if node.name == name)


def change_tensor(graph: Any, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the elements of the initializer `name` by `edit` of them."""
    from onnx import numpy_helper

    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    before = numpy_helper.to_array(tensor)
    after = np.asarray(edit(before.copy()), before.dtype, order="C")
    assert after.shape == before.shape
    assert not np.array_equal(after, before)
    tensor.CopyFrom(numpy_helper.from_array(after, name))


def set_attribute(graph: Any, name: str, **attributes) -> None:
    from onnx import helper

    node = node_of(graph, name)
    kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in attributes.items())])


def after(*steps: tuple[Any, ...], width: int | None = None) -> Callable[[Any], None]:
    """Put operators behind the output: each is (type, further inputs as arrays, attributes)."""

    def edit(graph):
        from onnx import helper, numpy_helper

        (output,) = graph.output
        last = next(node for node in graph.node if output.name in node.output)
        value = "spoilt/0"
        last.output[list(last.output).index(output.name)] = value
        for index, (kind, arrays, attributes) in enumerate(steps, start=1):
            names = [f"spoilt/{index}/{i}" for i in range(len(arrays))]
            graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True))
            made = output.name if index == len(steps) else f"spoilt/{index}"
            # A Concat puts its array first, as the background class of a list of 1001.
            inputs = [*names, value] if kind == "Concat" else [value, *names]
            inputs += [f"{name}/random" for name in attributes.pop("read", ())]
            graph.node.append(helper.make_node(kind, inputs, [made], name=f"spoilt/{kind}_{index}", **attributes))
            value = made
        if width is not None:
            output.type.tensor_type.shape.dim[1].dim_value = width

    return edit


def before(*steps: tuple[Any, ...]) -> Callable[[Any], None]:
    """Put operators before whatever reads the images: each is (type, further inputs as arrays, attributes)."""

    def edit(graph):
        from onnx import helper, numpy_helper

        images = graph.input[0].name
        readers = [node for node in graph.node if images in node.input]
        value = images
        for index, (kind, arrays, attributes) in enumerate(steps, start=1):
            names = [f"spoilt/in/{index}/{i}" for i in range(len(arrays))]
            graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True))
            made = f"spoilt/in/{index}"
            graph.node.append(helper.make_node(kind, [value, *names], [made], name=f"{made}/{kind}", **attributes))
            value = made
        for node in readers:
            node.input[list(node.input).index(images)] = value

    return edit
