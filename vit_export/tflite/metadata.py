"""TFLite Metadata, by which MediaPipe Tasks and others know what a file takes and answers without being told.

The flatbuffer is written field by field (`artifacts.tflite_metadata` has the numbers); labels go to a zip behind the
model, as the format wants. Our own record, which says more, is beside it (`structure.set_metadata`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_export.artifacts import tflite_metadata as fields
from vit_export.artifacts.description import facts_for_people
from vit_export.base.adapters.litert import schema
from vit_export.base.lazy import LazyTensor
from vit_export.deployment.graph import INPUT_NAME
from vit_export.model.artifact import InputKind
from vit_export.model.input_kinds import left_to_do
from vit_export.model.record import ModelRecord
from vit_export.tflite.structure import metadata_buffer

LABELS_FILE = "labels.txt"

_PARSER = "1.0.0"
"""The version of the schema that knows all fields used here: none was added later."""


def set_tflite_metadata(
    model: Any, buffers: dict[int, LazyTensor], record: ModelRecord, kind: str, input: InputKind
) -> dict[str, bytes]:
    """Put the metadata of `model` into it and `buffers`; returns the files to append, by name.

    `kind` is the file's precision and scheme in words.
    """
    packed = _packed(record, kind, input, _image_type(model))
    # Among the large buffers it is written aligned, as the flatbuffer that it is has to be.
    index = metadata_buffer(model, fields.METADATA_NAME)
    buffers[index] = LazyTensor.of(fields.METADATA_NAME.decode(), np.frombuffer(packed, np.uint8))
    return {} if record.labels is None else {LABELS_FILE: "".join(f"{label}\n" for label in record.labels).encode()}


def _image_type(model: Any) -> int:
    graph = model.subgraphs[0]
    return int(graph.tensors[graph.inputs[0]].type)


def _packed(record: ModelRecord, kind: str, input: InputKind, image_type: int) -> bytes:
    import flatbuffers

    write = _Writer(flatbuffers.Builder(1024))
    subgraph = write.table(
        {
            fields.Subgraph.INPUTS: write.vector([_image(write, record, input, image_type)]),
            fields.Subgraph.OUTPUTS: write.vector([_answer(write, record, name) for name in record.spec.outputs]),
        }
    )
    model: dict[int, int] = {
        fields.Model.SUBGRAPHS: write.vector([subgraph]),
        fields.Model.MIN_PARSER_VERSION: write.text(_PARSER),
    }
    for name, text in facts_for_people(record, kind).items():
        model[fields.Model[name.upper()]] = write.text(text)
    return write.finished(write.table(model))


def _image(write: "_Writer", record: ModelRecord, input: InputKind, image_type: int) -> int:
    mean, std = (255 * np.array(part) for part in left_to_do(input, record.preprocessing))
    ends = [(0 - mean) / std, (255 - mean) / std]
    if image_type == schema().TensorType.INT8:  # the tensor's own numbers, which scale and zero point make of these
        ends = [np.full(3, -128.0), np.full(3, 127.0)]
    height, width = record.spec.image_sides
    size = write.table({}, {fields.Size.WIDTH: ("Uint32", width), fields.Size.HEIGHT: ("Uint32", height)})
    image = write.table({fields.Image.SIZE: size}, {fields.Image.COLORS: ("Int8", fields.COLORS.index("RGB"))})
    content = write.table({fields.Content.PROPERTIES: image}, {fields.Content.KIND: ("Uint8", fields.IMAGE)})
    options = write.table({fields.Normalization.MEAN: write.floats(mean), fields.Normalization.STD: write.floats(std)})
    unit = write.table({fields.Unit.OPTIONS: options}, {fields.Unit.KIND: ("Uint8", fields.NORMALIZATION)})
    stats = write.table({fields.Stats.MAX: write.floats(ends[1]), fields.Stats.MIN: write.floats(ends[0])})
    return write.table(
        {
            fields.Tensor.NAME: write.text(INPUT_NAME),
            fields.Tensor.DESCRIPTION: write.text("RGB images, (pixel - mean) / std for pixels from 0 to 255."),
            fields.Tensor.CONTENT: content,
            fields.Tensor.UNITS: write.vector([unit]),
            fields.Tensor.STATS: stats,
        }
    )


_ANSWERS = {
    "single_label_classification": "One logit for each class: a softmax over all of them makes them probabilities.",
    "multi_label_classification": "One logit for each label: its sigmoid is the label's probability.",
    "regression": "The estimated numbers, as they are.",
    "features": "Features of the image, one number each.",
    "pooled": "The image's embedding, one number each.",
    "tokens": "A vector for each token of the image: class token, registers, patches.",
}
"""What an output is: logits by `ModelRecord.answers`, the others by their name."""


def _answer(write: "_Writer", record: ModelRecord, name: str) -> int:
    text = _ANSWERS[record.answers if name == "logits" and record.answers else name]
    content = write.table(
        {fields.Content.PROPERTIES: write.table({})}, {fields.Content.KIND: ("Uint8", fields.FEATURE)}
    )
    tensor: dict[int, int] = {
        fields.Tensor.NAME: write.text(name),
        fields.Tensor.DESCRIPTION: write.text(text),
        fields.Tensor.CONTENT: content,
    }
    if record.labels is not None and name == "logits":
        file = write.table(
            {
                fields.File.NAME: write.text(LABELS_FILE),
                fields.File.DESCRIPTION: write.text("The names of the classes, one a line."),
            },
            {fields.File.TYPE: ("Int8", fields.AXIS_LABELS)},
        )
        tensor[fields.Tensor.FILES] = write.vector([file])
    return write.table(tensor)


class _Writer:
    """Tables from fields by number; whatever a table refers to is written before it, as flatbuffers wants."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def text(self, text: str) -> int:
        return int(self._builder.CreateString(text))

    def floats(self, values: Sequence[float] | np.ndarray) -> int:
        return int(self._builder.CreateNumpyVector(np.asarray(values, np.float32)))

    def vector(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def table(self, offsets: Mapping[int, int], scalars: Mapping[int, tuple[str, int]] | None = None) -> int:
        """A table of `offsets` to what is written already, and of `scalars`: (type as flatbuffers calls it, value)."""
        scalars = scalars or {}
        self._builder.StartObject(max((*offsets, *scalars), default=-1) + 1)
        for field, offset in offsets.items():
            self._builder.PrependUOffsetTRelativeSlot(field, offset, 0)
        for field, (kind, value) in scalars.items():
            getattr(self._builder, f"Prepend{kind}Slot")(field, value, 0)
        return int(self._builder.EndObject())

    def finished(self, root: int) -> bytes:
        self._builder.Finish(root, fields.IDENTIFIER)
        return bytes(self._builder.Output())
