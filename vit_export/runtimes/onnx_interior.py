"""The tensors between the operators of an .onnx file: the outputs of a copy that has more of them."""

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.scratch import owned_folder

if TYPE_CHECKING:
    import onnx

IN_MEMORY = 256 * 2**20
"""Bytes up to which a model file is handed to ONNX Runtime from memory; larger ones are copied on disk."""


def extended_session(
    path: Path,
    outputs: Collection[str],
    nodes: "Iterable[onnx.NodeProto]" = (),
    *,
    threads: int = 0,
    optimized: bool = False,
) -> Any:
    """A session of ONNX Runtime on the file at `path` with the values `outputs` too, and `nodes` that make some.

    A protobuf message followed by another one is both merged. So both are simply appended to the file's own bytes, and
    weights are never parsed here. Values that are outputs already may not be among `outputs`. `optimized` is what an
    app's session would be.
    """
    import onnx
    import onnxruntime as ort

    more = onnx.ModelProto(graph=onnx.GraphProto())
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    more.graph.node.extend(nodes)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if path.stat().st_size <= IN_MEMORY:
        folder = str(path.parent.absolute())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        data = path.read_bytes() + more.SerializeToString()
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    with owned_folder("vit-export-layers-") as scratch:
        copy = scratch / path.name
        shutil.copyfile(path, copy)
        with open(copy, "ab") as file:
            file.write(more.SerializeToString())
        return ort.InferenceSession(str(copy), options, providers=["CPUExecutionProvider"])
