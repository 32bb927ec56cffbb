"""A functional or sequential Keras model taken apart: what it does to pixels, which tokens it pools, its head.

Read off the config that Keras saves, nothing of which is executed, so that it serves models in files as well as in
memory. What `keras_parts` does not know is refused by its name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vit_export.base.checks import is_whole
from vit_export.base.errors import InputError
from vit_export.model.keras_parts import (
    EXPECTED,
    Part,
    is_augmentation,
    is_inert,
    is_of_keras,
    parts_of,
    refused,
    settings,
    shown,
)
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.spec import Pooling, ViTSpec

REGISTERED_NAME = "vit_export>VisionTransformer"
_POOLING_NAME = "vit_export>AttentionPooling"
_MODELS = ("Functional", "Sequential", "Model")
_MAX_LAYERS = 256
"""Layers of one model, around a backbone that counts as one; what claims to have more is no head."""


@dataclass(frozen=True)
class Pixels:
    """The images, behind `parts`."""

    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Tokens:
    """The tokens of each image from `first` up to `end`, each behind `parts`."""

    first: int
    end: int
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Pooled:
    """One vector an image, behind `parts`: pooled by `pooling`, or None where it is what the backbone returns."""

    pooling: Pooling | None
    parts: tuple[Part, ...] = ()


State = Pixels | Tokens | Pooled
Opaque = Callable[[tuple[str, ...], ViTSpec], Pooling | None]
"""What a layer, given by its path, pools of all tokens of a model of that spec; None where that is no pooling."""


@dataclass(frozen=True)
class Apart:
    """A model in its parts: `before` the backbone, the backbone's `record` and `path`, and what is made of its tokens.

    `end` is `Tokens` where the model returns them as they are.
    """

    before: tuple[Part, ...]
    record: ModelRecord
    path: tuple[str, ...]
    end: Tokens | Pooled


def backbones(config: Any) -> list[Mapping[str, Any]]:
    """Every VisionTransformer of this package in `config`, at any depth."""
    found, waiting = [], [config]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, Mapping):
            if entry.get("registered_name") == REGISTERED_NAME:
                found.append(entry)
            else:
                waiting += entry.values()
        elif isinstance(entry, list | tuple):
            waiting += entry
    return found


def take_apart(config: Mapping[str, Any], opaque: Opaque | None = None) -> Apart:
    """The parts of the model whose config, as Keras saves it, is `config`; `opaque` is asked where that does not tell.

    Raises:
        InputError: it is not one backbone, its tokens pooled, and a head.
    """
    if config.get("class_name") not in _MODELS or not is_of_keras(config):
        raise InputError(
            f"A model of the class {shown(config.get('class_name'))} cannot be taken apart: {EXPECTED}, in a "
            "functional or sequential model."
        )
    if (count := len(backbones(config))) > 1:
        raise InputError(
            f"The model holds {count} VisionTransformers, and a file holds one: export each of them, and let the app "
            "average their softmaxes."
        )
    walk = _Walk(opaque)
    end = walk.model(config, Pixels(), ())
    if walk.record is None or isinstance(end, Pixels):
        raise InputError(f"The output of the model does not come from a VisionTransformer: {EXPECTED}.")
    if isinstance(end, Tokens) and (end.parts or (end.first, end.end) != (0, walk.record.spec.num_tokens)):
        last = end.parts[-1].layer if end.parts else "the last layer"
        raise InputError(f"The model ends in a result for each of several tokens ({last}), expected one: {EXPECTED}.")
    return Apart(walk.before, walk.record, walk.path, end)


class _Walk:
    """From the inputs of a model to its output; remembers the backbone on the way."""

    def __init__(self, opaque: Opaque | None) -> None:
        self.opaque = opaque
        self.before: tuple[Part, ...] = ()
        self.record: ModelRecord | None = None
        self.path: tuple[str, ...] = ()

    def model(self, entry: Mapping[str, Any], state: State, path: tuple[str, ...]) -> State:
        """What leaves the functional or sequential model of the config `entry`, given `state`."""
        config = entry.get("config")
        listed = config.get("layers") if isinstance(config, Mapping) else None
        if not isinstance(listed, list) or not all(isinstance(layer, Mapping) for layer in listed):
            raise refused(entry, "has no list of layers that can be read")
        if len(listed) > _MAX_LAYERS:
            raise refused(entry, f"has {len(listed)} layers around its backbone, expected {_MAX_LAYERS} at most")
        if entry.get("class_name") == "Sequential":
            for layer in listed:
                if layer.get("class_name") != "InputLayer":
                    state = self.layer(layer, [state], (), path)
            return state
        return self._functional(entry, listed, state, path)

    def _functional(
        self, entry: Mapping[str, Any], listed: list[Mapping[str, Any]], state: State, path: tuple[str, ...]
    ) -> State:
        config = entry["config"]
        (first, *inputs), (last, *outputs) = _ends(config.get("input_layers")), _ends(config.get("output_layers"))
        if first is None or last is None or inputs or outputs:
            raise refused(entry, "has not one input and one output, which is what a file is made of")
        found: dict[tuple[str, int], State] = {first: state}
        waiting = [
            (layer, number, node)
            for layer in listed
            if layer.get("class_name") != "InputLayer"
            for number, node in enumerate(layer.get("inbound_nodes") or ())
        ]
        if len(waiting) > _MAX_LAYERS:
            raise refused(entry, f"calls layers {len(waiting)} times, expected {_MAX_LAYERS} at most")
        while waiting and last not in found:
            left = []
            for layer, number, node in waiting:
                operands = list(_operands(node))
                if not operands or any(operand not in found for operand in operands):
                    left.append((layer, number, node))
                    continue
                others = tuple(node.get("args") or ())[1:] if isinstance(node, Mapping) else ()
                name = str(layer.get("name"))
                found[name, number] = self.layer(layer, [found[operand] for operand in operands], others, path)
            if len(left) == len(waiting):
                break
            waiting = left
        if last not in found:
            raise refused(entry, "has an output that its layers do not lead to")
        return found[last]

    def layer(
        self, entry: Mapping[str, Any], states: list[State], others: tuple[Any, ...], path: tuple[str, ...]
    ) -> State:
        """What leaves one layer, given the states of its operands and its `others`, which are no tensors."""
        name = entry.get("name") or (entry.get("config") or {}).get("name")
        path = (*path, str(name))
        if len(states) > 1:
            return self._joined(entry, states)
        (state,) = states
        if entry.get("class_name") == "Lambda" and self.opaque is None:
            raise refused(
                entry,
                "holds code, which is not run: save the model with a layer of Keras or a slice such as x[:, 0] in its "
                "place, or load it in Python where you trust it, and give it to vit_export.export",
            )
        if entry.get("registered_name") == REGISTERED_NAME:
            return self._backbone(entry, state, path)
        if entry.get("class_name") in _MODELS and is_of_keras(entry):
            return self.model(entry, state, path)
        if is_inert(entry) or (isinstance(state, Pixels) and is_augmentation(entry)):
            return state
        if isinstance(state, Tokens):
            return self._of_tokens(entry, state, others, path)
        return _of_pixels(entry, state, path) if isinstance(state, Pixels) else _of_pooled(entry, state, path)

    def _backbone(self, entry: Mapping[str, Any], state: State, path: tuple[str, ...]) -> State:
        if not isinstance(state, Pixels):
            raise refused(entry, "does not read the images")
        self.before, self.record, self.path = state.parts, record_of(entry), path
        spec = self.record.spec
        return Tokens(0, spec.num_tokens) if spec.num_classes is None else Pooled(None)

    def _of_tokens(
        self, entry: Mapping[str, Any], state: Tokens, others: tuple[Any, ...], path: tuple[str, ...]
    ) -> State:
        assert self.record is not None
        if entry.get("registered_name") == _POOLING_NAME:
            return self._pooled(entry, state, "attention")
        name, found, spec = str(entry.get("class_name")), None, self.record.spec
        if name == "GetItem":
            found = self._sliced(entry, state, _key(others))
        elif name in _OVER_TOKENS and is_of_keras(entry):
            found = getattr(self, _OVER_TOKENS[name])(entry, state)
        if found is None and self.opaque and state == Tokens(0, spec.num_tokens):
            pooling = self.opaque(path, spec)
            found = None if pooling is None else self._pooled(entry, state, pooling)
        return found or replace(state, parts=(*state.parts, *parts_of(entry, path, 3)))

    def _cropped(self, entry: Mapping[str, Any], state: Tokens) -> State | None:
        (cropped,) = settings(entry, cropping=None)
        sides = cropped if isinstance(cropped, list | tuple) else [cropped, cropped]
        if len(sides) != 2 or not all(is_whole(side, 0) for side in sides):
            return None
        return self._sliced(entry, state, [slice(None), slice(sides[0], -sides[1] or None)])

    def _averaged(self, entry: Mapping[str, Any], state: Tokens) -> State | None:
        """A mean over the tokens, by the layer or by keras.ops."""
        layout, axis, keepdims = settings(entry, data_format="channels_last", axis=1, keepdims=False)
        over_tokens = layout == "channels_last" and axis in (1, -2, [1], [-2])
        return self._mean(entry, state) if over_tokens and not keepdims else None

    def _flattened(self, entry: Mapping[str, Any], state: Tokens) -> State | None:
        """One token without the axis of tokens."""
        if state.end - state.first > 1 or not _gives_vector(entry):
            return None
        return self._row(entry, state)

    def _sliced(self, entry: Mapping[str, Any], state: Tokens, key: list[Any]) -> State:
        """`state[key]`: all images, some or one of the tokens, all channels."""
        images, rows, channels = (*key, *[slice(None)] * 3)[:3]
        if len(key) > 3 or images != slice(None) or channels != slice(None):
            raise refused(entry, f"cuts images or channels: {EXPECTED}")
        count = state.end - state.first
        if is_whole(rows):
            first = state.first + range(count)[rows] if -count <= rows < count else -1
            return self._row(entry, replace(state, first=first, end=first + 1))
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, end, _ = rows.indices(count)
            if start < end:
                return replace(state, first=state.first + start, end=state.first + end)
        raise refused(entry, f"takes tokens that no pooling is made of: {EXPECTED}")

    def _row(self, entry: Mapping[str, Any], state: Tokens) -> Pooled:
        """The class token alone; what each token went through, it did."""
        assert self.record is not None
        if state.first != 0 or not self.record.spec.class_token:
            raise refused(entry, f"takes token {state.first}, which is not the class token: {EXPECTED}")
        return self._pooled(entry, state, "class")

    def _mean(self, entry: Mapping[str, Any], state: Tokens) -> Pooled:
        assert self.record is not None
        spec = self.record.spec
        if state.end - state.first == 1:
            return self._row(entry, state)
        if state.parts:
            raise refused(entry, f"takes the mean behind {state.parts[-1].layer}: pool the tokens before the head")
        if state.end != spec.num_tokens or state.first not in (0, spec.num_prefix_tokens):
            raise refused(entry, "takes the mean of a part of the tokens: expected all, or those of the patches")
        return self._pooled(entry, state, "mean" if state.first == spec.num_prefix_tokens else "mean_all")

    def _pooled(self, entry: Mapping[str, Any], state: Tokens, pooling: Pooling) -> Pooled:
        assert self.record is not None
        own = self.record.spec.pooling
        if pooling == "attention" and own != "attention":
            raise refused(entry, "pools by attention, which the backbone has no weights for")
        if own == "mean_norm" and pooling != "mean":
            raise refused(entry, "reads tokens before the last LayerNorm: take the backbone's extract_features")
        return Pooled(pooling, state.parts)

    def _joined(self, entry: Mapping[str, Any], states: list[State]) -> State:
        """Class token and mean of the patches, one after the other; nothing else is joined."""
        concatenates = entry.get("class_name") == "Concatenate" and is_of_keras(entry)
        if concatenates and states == [Pooled("class"), Pooled("mean")] and settings(entry, axis=-1)[0] in (-1, 1):
            return Pooled("class_and_mean")
        raise refused(entry, f"joins {len(states)} tensors: {EXPECTED}")


_OVER_TOKENS = {
    **{"Cropping1D": "_cropped", "GlobalAveragePooling1D": "_averaged", "Mean": "_averaged"},
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze"), "_flattened"),
}
"""Methods of `_Walk` for the layers and functions of Keras that work over the axis of tokens."""


def _of_pixels(entry: Mapping[str, Any], state: Pixels, path: tuple[str, ...]) -> Pixels:
    if entry.get("class_name") not in ("Rescaling", "Normalization"):
        raise refused(
            entry,
            "changes the images before the backbone: leave it out of the model, and say what pixels it takes "
            "(preprocessing=, --mean, --std, --resize)",
        )
    return replace(state, parts=(*state.parts, *parts_of(entry, path, 4)))


def _of_pooled(entry: Mapping[str, Any], state: Pooled, path: tuple[str, ...]) -> Pooled:
    if is_of_keras(entry) and entry.get("class_name") in ("Flatten", "Reshape") and _gives_vector(entry):
        return state
    return replace(state, parts=(*state.parts, *parts_of(entry, path, 2)))


def _gives_vector(entry: Mapping[str, Any]) -> bool:
    """Whether a layer that changes shapes makes a vector of each image's vector, or of its only token."""
    name = entry.get("class_name")
    if name == "Squeeze":
        return settings(entry, axis=None)[0] in (1, -2)
    if name == "Flatten":
        return settings(entry, data_format=None)[0] != "channels_first"
    shape = settings(entry, target_shape=None, newshape=None)
    return any(isinstance(sizes, list | tuple) and len(sizes) == 1 for sizes in shape)


def record_of(entry: Mapping[str, Any]) -> ModelRecord:
    """The record in the config of a VisionTransformer; of its spec alone where it has none that fits.

    Raises:
        InputError: the spec or the record is none.
        KeyError, TypeError, ValueError, AttributeError: the config is damaged.
    """
    own = entry["config"]
    spec = ViTSpec.from_dict(dict(own["spec"]))
    if own.get("record"):
        record = ModelRecord.from_dict(dict(own["record"]))
        if record.spec == spec:
            # Of the model in memory, which knows its untrained weights by it: it promises nothing of those in a file.
            return replace(record, fingerprint=None)
    return ModelRecord(spec, Preprocessing(spec.image_size))


def _ends(given: Any) -> list[tuple[str, int] | None]:
    """Layer and node of every tensor that `given` names as Keras does: ["name", 0, 0], or a list of such."""
    if isinstance(given, list | tuple) and len(given) == 3 and isinstance(given[0], str):
        given = [given]
    if not isinstance(given, list | tuple) or not given:
        return [None]
    return [_history(entry) for entry in given]


def _history(entry: Any) -> tuple[str, int] | None:
    if isinstance(entry, list | tuple) and len(entry) == 3 and isinstance(entry[0], str) and is_whole(entry[1]):
        return entry[0], entry[1]
    return None


def _operands(entry: Any) -> Iterator[tuple[str, int]]:
    """Layer and node of each tensor that a layer is called on, in order."""
    if isinstance(entry, Mapping) and entry.get("class_name") == "__keras_tensor__":
        yield _history((entry.get("config") or {}).get("keras_history")) or ("", 0)
    elif isinstance(entry, Mapping | list | tuple):
        for inner in entry.values() if isinstance(entry, Mapping) else entry:
            yield from _operands(inner)


def _key(others: tuple[Any, ...]) -> list[Any]:
    """The key of a slice as Python has it; what is no number and no slice stays as it is."""
    given = others[0] if others else None
    if isinstance(given, Mapping) and given.get("class_name") == "__tuple__":
        given = (given.get("config") or {}).get("items") or given.get("items")
    entries = given if isinstance(given, list | tuple) else [given]
    return [_slice(entry) for entry in entries]


def _slice(entry: Any) -> Any:
    if isinstance(entry, Mapping) and entry.get("class_name") == "__slice__":
        ends = [(entry.get("config") or {}).get(name) for name in ("start", "stop", "step")]
        if all(end is None or is_whole(end) for end in ends):
            return slice(*ends)
    return entry
