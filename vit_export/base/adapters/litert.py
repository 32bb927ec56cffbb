"""Private interfaces of ai-edge-litert 2.3.0."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter
    from flatbuffers.table import Table


def schema() -> Any:
    """The classes that flatc generated from TFLite's schema.fbs, `ai_edge_litert.schema_py_generated`.

    No package offers them as its public interface (they have moved from TensorFlow to here), and AI Edge Quantizer
    reads and writes files with these.
    """
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def names_of(enumeration: str) -> dict[int, str]:
    """Code -> name of an enumeration of the schema, as `TensorType` or `BuiltinOperator`.

    A generated enumeration is a class of whole numbers without a list of its members: its `__dict__` is read.
    """
    return {code: name for name, code in vars(getattr(schema(), enumeration)).items() if isinstance(code, int)}


def integers(vector: Any) -> tuple[int, ...]:
    """The whole numbers of a vector as a generated class gives it `AsNumpy`: the number 0 where there is none."""
    return () if isinstance(vector, int) else tuple(map(int, vector))


def table_of(found: Any) -> "Table":
    """Where an object of a generated class lies in its flatbuffer: `_tab`, in every class of `schema`.

    The public methods give values; a value can be overwritten in its place only by the position of its field, which
    the table's `Pos` and `Offset` tell.
    """
    return found._tab


def invoke_for_ranges(interpreter: "Interpreter") -> dict[str, tuple[float, float]]:
    """Compute once and return tensor name -> smallest and largest value, of every float tensor the main graph made.

    The profiler in C++ behind AI Edge Quantizer's profiler-based Calibrator, `_pywrap_tfl_calibration`, which takes
    the address of the interpreter that `_native_handle` gives. The Calibrator is public, but copies the whole model
    into memory, where an interpreter of a path maps it; to read every tensor from Python takes ten times as long.

    `interpreter` has its inputs set, and was made with `experimental_disable_delegate_node_fusion` and
    `experimental_force_delegate_node_profiling`: without them XNNPACK keeps what lies between its operators to itself.
    """
    from ai_edge_litert import _pywrap_tfl_calibration

    seen = _pywrap_tfl_calibration.InvokeWithCalibration(interpreter._native_handle(), 0)
    return {name: (float(ends.min), float(ends.max)) for name, ends in seen.items()}


def operators_of(interpreter: "Interpreter") -> list[dict[str, Any]]:
    """The nodes of an allocated interpreter, each with `index`, `op_name`, and tensor numbers `inputs` and `outputs`.

    `Interpreter._get_ops_details`: what a delegate took stays in the list, beside a node DELEGATE of its outermost
    inputs and outputs. The public methods tell of tensors only.
    """
    details: list[dict[str, Any]] = interpreter._get_ops_details()
    return details
