"""The versions of a file's operators set to what their types need (`artifacts.operator_versions`)."""

from typing import Any

import numpy as np

from vit_export.artifacts.flatbuffer import operator_kinds
from vit_export.artifacts.operator_versions import Operand, needed_version
from vit_export.artifacts.runtime_versions import MIN_RUNTIME, WIDE_GELU, runtime_of
from vit_export.base.adapters.litert import names_of
from vit_export.tflite.structure import metadata_buffer

_RUNTIME_BYTES = 16  # as TensorFlow writes it, padded with zeros


def set_versions(model: Any, *, inline: bool = True) -> None:
    """Set the version of every operator code of `model`, and the metadata `min_runtime_version` that follows from them.

    A code has the highest version that one of its operators needs; that of an operator without a rule stays. `inline`
    says whether every buffer will be in the flatbuffer.
    """
    kinds, types = operator_kinds(model), names_of("TensorType")
    needed: dict[int, int] = {}
    unversioned = set()

    def operand(tensor: Any) -> Operand:
        quantization = tensor.quantization
        scales = () if quantization is None or quantization.scale is None else tuple(quantization.scale)
        shape = () if tensor.shape is None else tuple(map(int, tensor.shape))
        return Operand(types[tensor.type].lower(), shape, scales)

    for graph in model.subgraphs:
        for operator in graph.operators:
            index = operator.opcodeIndex
            inputs = [operand(graph.tensors[i]) if i >= 0 else None for i in operator.inputs]
            outputs = [operand(graph.tensors[i]) for i in operator.outputs]
            options = {} if operator.builtinOptions is None else vars(operator.builtinOptions)
            version = needed_version(kinds[index], options, inputs, outputs)
            if version is not None:
                needed[index] = max(needed.get(index, 1), version)
            if kinds[index] == "GELU" and inputs[0] is not None and inputs[0].dtype == "int16":
                unversioned.add(WIDE_GELU)
    for index, version in needed.items():
        model.operatorCodes[index].version = version
    codes = [(kind, code.version) for kind, code in zip(kinds, model.operatorCodes, strict=True)]
    if runtime := runtime_of((*codes, *unversioned), inline=inline):
        text = runtime.encode().ljust(_RUNTIME_BYTES, b"\0")
        model.buffers[metadata_buffer(model, MIN_RUNTIME)].data = np.frombuffer(text, np.uint8)
