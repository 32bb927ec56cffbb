"""Which operator of a file of ours reads which parameter: the right numbers in the wrong place are another model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vit_export.model.parameters import layer_name, parameter_specs
from vit_export.model.spec import ViTSpec

_LAYER = "encoder/layer_"
_BLOCKS = (
    "attention_norm",
    "attention/",
    "attention/output",
    "mlp_norm",
    "mlp/dense_1",
    "mlp/hidden",
    "mlp/dense_2",
    "mlp/outliers/dense_1",
    "mlp/outliers/dense_2",
)
"""The parts of a layer in the order in which data passes them; query, key and value share one."""
_LAST = (
    ("encoder/norm",),
    ("pooling/scores", "pooling/value"),
    ("pooling/output",),
    ("pooling/norm",),
    ("pooling/mlp/dense_1",),
    ("pooling/mlp/dense_2",),
    ("pre_logits",),
)
"""Those behind the encoder, but for the head's, which come last."""

_STORED = ("/float16", "_quantized", "_scale", "_zero_point")
_STEPS = ("DequantizeLinear", "DEQUANTIZE")
_PASSED_ON = ("Cast", "Mul")
"""What is between the product and the bias of a Dense that multiplies integers."""


@dataclass(frozen=True)
class Read:
    """One operator, in the order of the file: its kind, what it reads and what it makes, by name."""

    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]


def misread(operators: Iterable[Read], spec: ViTSpec) -> Iterator[str]:
    """What is read by another part of the network than its own, in a sentence each."""
    known = {parameter.name for parameter in parameter_specs(spec)}
    known |= {f"pooling/scores/{part}" for part in ("kernel", "bias")} if spec.pooling == "attention" else set()
    # The Dense layers of hidden channels that int8 sets apart, and of these only the encoder's.
    known |= {name.replace("/mlp/", "/mlp/outliers/") for name in known if name.startswith(_LAYER) and "/mlp/" in name}
    # What the output of a Dense is multiplied with, or a hidden layer, where int8 wants it.
    known |= {name.replace("/kernel", "/scale") for name in known if name.endswith("/kernel")}
    known |= {f"{layer_name(index)}/mlp/hidden/scale" for index in range(spec.num_layers)}
    place, stands_for, owners = (-1, 0), dict[str, str](), dict[str, str]()
    for operator in operators:
        names = [stands_for.get(value, _parameter(value)) for value in operator.inputs]
        read = [name for name in names if name in known]
        if operator.kind in _STEPS and names and names[0] in known:
            stands_for.update(dict.fromkeys(operator.outputs, names[0]))
            continue
        for name in read:
            own = _place(name, spec)
            if own < place:
                yield f"{name} is read behind its layer"
            place = max(place, own)
        dense = [name.rpartition("/")[0] for name in read if _is_of_dense(name, known)]
        dense += [owners[value] for value in operator.inputs if value in owners]
        if len(set(dense)) > 1:
            yield f"one operator reads parameters of {' and of '.join(sorted(set(dense))[:2])}"
        ends = any(name.endswith("/bias") for name in read) and operator.kind not in _PASSED_ON
        if dense and not ends and not any(name.endswith("/scale") for name in read):
            owners.update(dict.fromkeys(operator.outputs, dense[0]))


def _parameter(value: str) -> str:
    """The parameter that a constant called `value` belongs to."""
    for suffix in _STORED:
        value = value.removesuffix(suffix)
    return value


def _is_of_dense(name: str, known: set[str]) -> bool:
    return f"{name.rpartition('/')[0]}/kernel" in known


def _place(name: str, spec: ViTSpec) -> tuple[int, int]:
    """Where data meets the parameter `name`: layer and part of it."""
    if name.startswith(_LAYER):
        index, _, rest = name.removeprefix(_LAYER).partition("/")
        found = [number for number, block in enumerate(_BLOCKS) if rest.startswith(block)]
        return int(index), max(found, default=0)
    owner = name.rpartition("/")[0]
    head = [placed.name for placed in spec.head_steps if placed.name] + ["head"]
    last = [number for number, owners in enumerate((*_LAST, *((step,) for step in head))) if owner in owners]
    return (spec.num_layers, last[0]) if last else (-1, int(owner == "embedding_norm"))
