"""The deployment graph as an ONNX model without weights: every parameter is still a graph input of its own name.

tf2onnx sees shapes only, so this takes seconds and tens of KB whatever the model's size. It is the single place that
touches tf2onnx, which is unmaintained for long stretches: another translator would have to offer `translate` alone.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vit_export.base.errors import StructureError
from vit_export.base.lazy import Tensors
from vit_export.deployment import graph
from vit_export.deployment.rewrites import Shapes, shapes_of
from vit_export.model.spec import ViTSpec
from vit_export.onnx.editing import drop_unused, rename_values

if TYPE_CHECKING:
    import onnx

TRANSLATOR_MAX_OPSET = 18
"""The highest opset tf2onnx 1.17 knows."""


def onnx_structure(
    spec: ViTSpec, parameters: Tensors, *, opset: int, batch: int = 1, dtype: str = "float32"
) -> "onnx.ModelProto":
    """The deployment graph of `spec` in operators of `opset`, parameters as graph inputs.

    Inputs: `images`, [batch, height, width, 3] of `dtype` (float32 or uint8), then every parameter by its name.
    Outputs: `spec.outputs`, float32 [batch, …].

    Raises:
        StructureError: the translation lost or invented an input or output, or `opset` redefines an operator in use.
    """
    import onnx

    return onnx.ModelProto.FromString(_translated(spec, shapes_of(parameters), opset, batch, dtype))


@lru_cache(maxsize=4)
def _translated(spec: ViTSpec, shapes: Shapes, opset: int, batch: int, dtype: str) -> bytes:
    """`onnx_structure` in bytes: without weights it is small, and the same for every precision."""
    function = graph.trace(spec, shapes, graph.ONNX, batch, dtype)
    names = [graph.INPUT_NAME, *dict(shapes)]
    model = translate(function, names, list(spec.outputs), opset=min(opset, TRANSLATOR_MAX_OPSET))
    raise_opset(model, opset)
    found = [value.name for value in model.graph.input]
    if found != names:
        raise StructureError(
            f"ONNX structure: the graph has {len(found)} inputs, expected images and {len(shapes)} parameters "
            f"(first difference: {_first_difference(found, names)})."
        )
    return bytes(model.SerializeToString(deterministic=True))


def translate(function: Any, input_names: list[str], output_names: list[str], *, opset: int) -> "onnx.ModelProto":
    """The concrete function `function` as an ONNX model whose inputs and outputs are called as given.

    Raises:
        StructureError: tf2onnx has no translation for an operator of the graph, or fails.
    """
    import onnx

    with _quiet():
        from tf2onnx import optimizer as opt
        from tf2onnx.tfonnx import process_tf_graph

        inputs = [tensor.name for tensor in function.inputs]
        outputs = [tensor.name for tensor in function.outputs]
        # A '/' in a renamed tensor confuses tf2onnx's scopes; the names are restored below, on the finished model.
        renamed = {tensor: f"input_{index}" for index, tensor in enumerate(inputs)}
        try:
            translated = process_tf_graph(
                function.graph,
                continue_on_error=False,
                opset=opset,
                input_names=inputs,
                output_names=outputs,
                tensors_to_rename={**renamed, **dict(zip(outputs, output_names, strict=True))},
            )
            # Constant folding here means the Casts that tf2onnx puts on shapes; its other optimizers move transposes
            # about and would change what the passes of `fusion` look for.
            chosen = (opt.ConstFoldOptimizer, opt.MergeDuplicatedNodesOptimizer, opt.IdentityOptimizer)
            folded = opt.optimize_graph(
                translated, catch_errors=False, optimizers={optimizer.__name__: optimizer for optimizer in chosen}
            )
        except Exception as error:  # tf2onnx raises bare ValueErrors and KeyErrors from within
            raise StructureError(f"ONNX structure: tf2onnx cannot translate the graph ({error}).") from error
        model = folded.make_model("vit-export")
    rename_values(model.graph, dict(zip(renamed.values(), input_names, strict=True)))
    drop_unused(model.graph)
    # An operator that tf2onnx cannot translate stays in the graph under its TensorFlow name, and is only logged.
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    if foreign := sorted({node.op_type for node in model.graph.node if node.op_type not in known or node.domain}):
        raise StructureError(f"ONNX structure: tf2onnx cannot translate {', '.join(foreign)}.")
    # tf2onnx always imports ai.onnx.ml, whether or not an operator of it is used.
    del model.opset_import[:]
    model.opset_import.add(domain="", version=opset)
    return model


def raise_opset(model: "onnx.ModelProto", opset: int) -> None:
    """Declare `model` to be of a higher `opset`, which changes nothing when no operator in use was redefined.

    Raises:
        StructureError: the inputs or attributes of an operator in use differ between the two opsets.
    """
    import onnx

    current = model.opset_import[0].version
    for operator in sorted({node.op_type for node in model.graph.node}):
        before, after = (onnx.defs.get_schema(operator, version, "") for version in (current, opset))
        if not _compatible(before, after):
            raise StructureError(f"ONNX structure: opset {opset} redefines {operator} of opset {current}.")
    model.opset_import[0].version = opset
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))


def _compatible(before: Any, after: Any) -> bool:
    """Whether a node of the schema `before` means the same under `after`, as far as schemas can say."""
    if any([p.name for p in x] != [p.name for p in y] for x, y in zip(_ports(before), _ports(after), strict=True)):
        return False
    kept = all(
        name in after.attributes and after.attributes[name].default_value == attribute.default_value
        for name, attribute in before.attributes.items()
    )
    added = (after.attributes[name] for name in set(after.attributes) - set(before.attributes))
    return kept and not any(attribute.required for attribute in added)


def _ports(schema: Any) -> tuple[Any, Any]:
    return schema.inputs, schema.outputs


def _first_difference(found: list[str], wanted: list[str]) -> str:
    for one, other in zip(found, wanted, strict=False):
        if one != other:
            return f"{one!r}, expected {other!r}"
    return "one list is the beginning of the other"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tf2onnx's warnings (about TensorFlow versions and opsets) off the user's terminal."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
