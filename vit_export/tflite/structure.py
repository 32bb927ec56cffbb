"""The structure of a .tflite model: converted without weights, tidied, checked, then given its parameters.

The converter sees every weight as a graph input. What it would otherwise do with constants is done here: a bias is
fused into its FULLY_CONNECTED, and each such input becomes a buffer.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.flatbuffer import Buffers, MappedModel, operator_kinds, unpack
from vit_export.base.adapters.litert import schema
from vit_export.base.errors import StructureError
from vit_export.base.lazy import LazyTensor, Tensors
from vit_export.base.quiet import quiet
from vit_export.deployment.graph import INPUT_NAME, TFLITE, parameter_name, trace
from vit_export.deployment.rewrites import Shapes, shapes_of
from vit_export.model.spec import ViTSpec

SIGNATURE = "serving_default"
METADATA_NAME = b"vit_export"
MAX_RANK = 4  # GPU delegates refuse more


def convert_structure(
    spec: ViTSpec, parameters: Tensors, batch: int = 1, dtype: str = "float32"
) -> tuple[Any, dict[int, LazyTensor]]:
    """The model of `spec` as a flatbuffer object tree, and its weights by buffer index.

    Only built-in operators, static shapes, nothing above rank 4; one signature, `serving_default`. `dtype` is that of
    the images, float32 or uint8 (which are pixels, not quantized numbers).
    """
    model = unpack(_converted(spec, shapes_of(parameters), batch, dtype))
    structure = Structure(model)
    structure.order_outputs()
    structure.name_inputs(parameters)
    structure.fuse_biases(parameters)
    structure.level_ranks()
    structure.drop_unused_tensors()
    structure.name_activations()
    structure.name_outputs(spec.outputs, batch)
    buffers = structure.bake(parameters)
    structure.write_signature()
    structure.check(batch)
    return model, buffers


@lru_cache(maxsize=4)
def _converted(spec: ViTSpec, shapes: Shapes, batch: int, dtype: str) -> bytes:
    """What the converter makes of `spec`: without weights it is small, and the same for every precision."""
    import tensorflow as tf

    function = trace(spec, shapes, TFLITE, batch, dtype)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    with quiet():
        return bytes(converter.convert())


class Structure:
    """Passes over the single subgraph of a `ModelT`."""

    def __init__(self, model: Any) -> None:
        if len(model.subgraphs) != 1:
            raise StructureError(f"Expected one subgraph, the converter wrote {len(model.subgraphs)}.")
        self.model, self.graph = model, model.subgraphs[0]
        self._kinds = operator_kinds(model)

    def kind(self, operator: Any) -> str:
        """Name of the operator's built-in code."""
        return self._kinds[operator.opcodeIndex]

    def tensor_name(self, index: int) -> str:
        """Name of tensor `index`."""
        return self.graph.tensors[index].name.decode()

    def consumers(self, tensor: int) -> list[Any]:
        """Operators that read `tensor`."""
        return [operator for operator in self.graph.operators if tensor in list(operator.inputs)]

    def name_inputs(self, parameters: Tensors) -> None:
        """Give graph inputs their canonical names back; they must be the image and exactly the parameters."""
        for index in self.graph.inputs:
            tensor = self.graph.tensors[index]
            argument = tensor.name.decode().removeprefix(f"{SIGNATURE}_").removesuffix(":0")
            tensor.name = parameter_name(argument).encode()
        found = {self.tensor_name(i) for i in self.graph.inputs}
        if different := found ^ {INPUT_NAME, *parameters}:
            some = ", ".join(sorted(different)[:4])
            raise StructureError(f"{len(different)} graph inputs and parameters do not match, such as {some}.")

    def order_outputs(self) -> None:
        """Put the graph's outputs in the order in which the traced function returns them; only its signature tells."""
        (signature,) = self.model.signatureDefs
        numbers = {int(entry.name.removeprefix(b"output_")): int(entry.tensorIndex) for entry in signature.outputs}
        outputs = [numbers[place] for place in sorted(numbers)]
        if sorted(outputs) != sorted(self.graph.outputs):
            raise StructureError(f"The converter's signature returns other tensors than the graph: {outputs}.")
        self.graph.outputs = outputs

    def fuse_biases(self, parameters: Tensors) -> None:
        """FULLY_CONNECTED followed by ADD of a bias parameter becomes FULLY_CONNECTED with that bias."""
        biases = {i for i in self.graph.inputs if self.tensor_name(i).endswith("/bias")}
        readers: dict[int, list[Any]] = {}
        for operator in self.graph.operators:
            for index in set(operator.inputs):
                readers.setdefault(index, []).append(operator)
        fused = []
        for dense in (o for o in self.graph.operators if self.kind(o) == "FULLY_CONNECTED"):
            (add,) = readers[dense.outputs[0]]
            bias = [i for i in add.inputs if i in biases]
            if self.kind(add) != "ADD" or len(bias) != 1:
                raise StructureError(f"No bias follows the FULLY_CONNECTED of {self.tensor_name(dense.inputs[1])}.")
            dense.inputs = [dense.inputs[0], dense.inputs[1], bias[0]]
            dense.outputs = list(add.outputs)
            dense.builtinOptions.fusedActivationFunction = add.builtinOptions.fusedActivationFunction
            fused.append(add)
        self.graph.operators = [o for o in self.graph.operators if not any(o is f for f in fused)]
        expected = sum(name.endswith("/kernel") for name in parameters)
        if len(fused) != expected:
            raise StructureError(f"Fused {len(fused)} biases, expected {expected}.")

    def level_ranks(self) -> None:
        """Give tokens as many dimensions as the parameter has that is added to them, by a RESHAPE before the ADD.

        The converter makes a reshape and a sum one ADD of [n, width] and [1, n, width], which LiteRT's GPU computes
        wrong: it takes the tokens of one operand for the images of the other.
        """
        for place, operator in reversed(list(enumerate(self.graph.operators))):
            ranks = [len(self.graph.tensors[index].shape) for index in operator.inputs]
            if self.kind(operator) == "ADD" and min(ranks) > 1 and ranks[0] != ranks[1]:
                lower = min((0, 1), key=ranks.__getitem__)
                index = int(operator.inputs[lower])
                reshape = self._reshape(index, [1] * abs(ranks[0] - ranks[1]) + list(self.graph.tensors[index].shape))
                operator.inputs = [int(reshape.outputs[0]) if i == index else int(i) for i in operator.inputs]
                self.graph.operators.insert(place, reshape)

    def _reshape(self, index: int, shape: list[int]) -> Any:
        """A RESHAPE of tensor `index` to `shape`, with its new output, not in the graph yet."""
        fb, tensors = schema(), self.graph.tensors
        kind = fb.TensorType.INT32
        self.model.buffers.append(fb.BufferT(data=np.asarray(shape, np.int32).view(np.uint8)))
        name, type = tensors[index].name, tensors[index].type
        tensors += [
            fb.TensorT(name=name + b"/shape", shape=[len(shape)], type=kind, buffer=len(self.model.buffers) - 1),
            fb.TensorT(name=name + b"/rank", shape=shape, type=type, buffer=0),
        ]
        options = fb.ReshapeOptionsT(newShape=shape)
        return fb.OperatorT(
            opcodeIndex=self._kinds.index("RESHAPE"),
            inputs=[index, len(tensors) - 2],
            outputs=[len(tensors) - 1],
            builtinOptionsType=fb.BuiltinOptions.ReshapeOptions,
            builtinOptions=options,
        )

    def drop_unused_tensors(self) -> None:
        """Remove tensors that no operator touches any more; calibration would try to read them."""
        graph = self.graph
        used = {*graph.inputs, *graph.outputs}
        for operator in graph.operators:
            used.update(i for i in (*operator.inputs, *operator.outputs) if i >= 0)
        place = {old: new for new, old in enumerate(sorted(used))}
        graph.tensors = [graph.tensors[old] for old in sorted(used)]
        graph.inputs, graph.outputs = [place[i] for i in graph.inputs], [place[i] for i in graph.outputs]
        for operator in graph.operators:
            operator.inputs = [place.get(i, -1) for i in operator.inputs]
            operator.outputs = [place[i] for i in operator.outputs]

    def name_activations(self) -> None:
        """Name activations after the layer that makes them: quantization recipes and profiles address them so."""
        named_after_source = ("RESHAPE", "TRANSPOSE", "SOFTMAX", "GELU", "CAST")
        matmuls = iter(("scores", "mixed") * sum(self.kind(o) == "BATCH_MATMUL" for o in self.graph.operators))
        layer = "encoder"
        for operator in self.graph.operators:
            kind, source = self.kind(operator), self.tensor_name(operator.inputs[0])
            if kind == "FULLY_CONNECTED":
                name = self.tensor_name(operator.inputs[1]).removesuffix("/kernel")
                layer = name.rpartition("/attention/")[0] or ("pooling" if name.startswith("pooling/") else layer)
            elif kind == "BATCH_MATMUL":
                name = "pooling/mixed" if layer == "pooling" else f"{layer}/attention/{next(matmuls)}"
            elif kind in named_after_source:
                name = f"{source}/{kind.lower()}"
            else:
                continue
            self.graph.tensors[operator.outputs[0]].name = name.encode()
        self._name_variances()

    def _name_variances(self) -> None:
        """Name what is under the root of a LayerNorm: the squares, their mean, and that with epsilon."""
        maker = {int(operator.outputs[0]): operator for operator in self.graph.operators}
        for root in self.graph.operators:
            above = root if self.kind(root) == "RSQRT" else None
            for kind in ("ADD", "MEAN", "MUL"):
                above = next((maker[i] for i in above.inputs if i in maker), None) if above else None
                if above is not None and self.kind(above) == kind:
                    self.graph.tensors[above.outputs[0]].name += b"/variance"

    def name_outputs(self, outputs: Mapping[str, tuple[int, ...]], batch: int) -> None:
        """Call the graph's outputs as `outputs` do, which have the shape of each for one image."""
        found = [tuple(map(int, self.graph.tensors[i].shape)) for i in self.graph.outputs]
        wanted = [(batch, *shape) for shape in outputs.values()]
        if found != wanted:
            raise StructureError(f"The outputs have the shapes {found}, expected {wanted} ({', '.join(outputs)}).")
        for index, name in zip(self.graph.outputs, outputs, strict=True):
            self.graph.tensors[index].name = name.encode()

    def bake(self, parameters: Tensors) -> dict[int, LazyTensor]:
        """Turn every graph input but the image into a constant with a buffer of its own."""
        buffers = {}
        image = [i for i in self.graph.inputs if self.tensor_name(i) == INPUT_NAME]
        for index in (i for i in self.graph.inputs if i not in image):
            parameter = parameters[self.tensor_name(index)]
            tensor = self.graph.tensors[index]
            if tuple(tensor.shape) != parameter.shape:
                raise StructureError(f"{parameter.name} has shape {tuple(tensor.shape)}, expected {parameter.shape}.")
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(schema().BufferT())
            buffers[tensor.buffer] = parameter
        self.graph.inputs = image
        used = {i for o in self.graph.operators for i in o.inputs}
        if idle := [n for i, n in self._parameter_tensors(buffers) if i not in used]:
            raise StructureError(f"Parameters that no operator reads: {', '.join(idle)}.")
        return buffers

    def _parameter_tensors(self, buffers: Buffers) -> Iterable[tuple[int, str]]:
        return ((i, t.name.decode()) for i, t in enumerate(self.graph.tensors) if t.buffer in buffers)

    def write_signature(self) -> None:
        """One signature, `serving_default`: images -> the outputs under their own names."""
        fb = schema()

        def entry(index: int) -> Any:
            return fb.TensorMapT(name=self.graph.tensors[index].name, tensorIndex=index)

        signature = fb.SignatureDefT(signatureKey=SIGNATURE.encode(), subgraphIndex=0)
        signature.inputs = [entry(i) for i in self.graph.inputs]
        signature.outputs = [entry(i) for i in self.graph.outputs]
        self.model.signatureDefs = [signature]

    def check(self, batch: int) -> None:
        """Raise StructureError unless the model is what every runtime and delegate can open."""
        for code, kind in zip(self.model.operatorCodes, self._kinds, strict=True):
            if kind == "CUSTOM" or code.customCode:
                raise StructureError(f"The converter emitted the custom operator {code.customCode!r}.")
        for tensor in self.graph.tensors:
            shape = [] if tensor.shape is None else list(tensor.shape)
            signature = [] if tensor.shapeSignature is None else list(tensor.shapeSignature)
            if -1 in shape or -1 in signature:
                raise StructureError(f"Tensor {tensor.name.decode()} has a dynamic shape.")
            if len(shape) > MAX_RANK:
                raise StructureError(
                    f"Tensor {tensor.name.decode()} has rank {len(shape)}, at most {MAX_RANK} allowed."
                )
        (image,) = self.graph.inputs
        if self.graph.tensors[image].shape[0] != batch:
            raise StructureError(f"Batch is {self.graph.tensors[image].shape[0]}, expected {batch}.")
        quantization = self.graph.tensors[image].quantization
        if quantization is not None and quantization.scale is not None and len(quantization.scale):
            raise StructureError(f"The converter gave {INPUT_NAME} a scale; the images of a float file have none.")


def set_metadata(model: Any, text: str) -> None:
    """Store `text` (JSON) under this package's metadata name, replacing what is there."""
    model.buffers[metadata_buffer(model, METADATA_NAME)].data = np.frombuffer(text.encode(), np.uint8)


def metadata_buffer(model: Any, name: bytes) -> int:
    """The index of a new buffer for the metadata called `name`; one of that name before is metadata no more."""
    fb = schema()
    kept = [entry for entry in model.metadata or [] if entry.name != name]
    model.buffers.append(fb.BufferT())
    kept.append(fb.MetadataT(name=name, buffer=len(model.buffers) - 1))
    model.metadata = kept
    return len(model.buffers) - 1


def get_metadata(path: Path) -> str | None:
    """The JSON that `set_metadata` stored in the file at `path`, or None."""
    mapped = MappedModel(path)
    for entry in mapped.model.metadata or []:
        if entry.name == METADATA_NAME:
            return bytes(mapped.data(entry.buffer)).decode()
    return None
