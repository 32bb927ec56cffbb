"""What a bundle is made of: one file of ours, the record in it, and what a report beside it says of that very file."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from vit_export.artifacts.read import artifact_of, read_facts
from vit_export.base.errors import InputError
from vit_export.base.files import shortened
from vit_export.deployment.graph import INPUT_NAME
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.model.record import ModelRecord
from vit_export.model.spec import shown_sides
from vit_export.report.earlier import verified
from vit_export.report.view import File, Record

_INPUTS = ("float32", "uint8", "int8")
_OUTPUTS = ("float32", "int8")
_DATA_NAME = re.compile(r"\w[\w.-]{0,200}\.onnx\.data")
"""Names of external data that go into a zip: no folder, no code, none that systems take for another."""


@dataclass(frozen=True)
class Subject:
    """A file to bundle. `schema` is as in FileFacts.

    `report` is what a report says of this file (see `report.earlier`), `result` its part for `view`; they are empty
    where nobody verified it.
    """

    artifact: Artifact
    record: ModelRecord
    schema: dict[str, int]
    report: Record = field(default_factory=dict)
    result: File | None = None

    @property
    def path(self) -> Path:
        """Where the .tflite or .onnx file is."""
        return Path(self.artifact.path)

    @property
    def opset(self) -> int | None:
        """The opset of an .onnx file, None for a .tflite file."""
        return self.schema.get("ai.onnx")

    @property
    def input(self) -> TensorSpec:
        """The input of the file: its images."""
        return self.artifact.inputs[0]

    @property
    def output(self) -> TensorSpec:
        """The output that the code reads: the first of several."""
        return self.artifact.outputs[0]

    @property
    def classifies(self) -> bool:
        """Whether the largest output is the answer; else all of them are given as they are."""
        return self.record.classifies

    @property
    def model_name(self) -> str:
        """The model's name in a bundle: always the same, so that nothing that a user typed is in code."""
        return f"model.{self.artifact.format}"


def subject_of(path: Path) -> Subject:
    """The file at `path`, with its record and the newest verification of these very bytes beside it.

    Raises:
        InputError: it is no .tflite or .onnx file, not of vit-export, or of a form that bundled code does not feed
            (a batch of several images, other numbers than float32, uint8 or int8).
    """
    facts = read_facts(path)
    name = shortened(path.name)
    if facts.record is None:
        if facts.notes:  # it holds one, and there is a reason
            raise InputError(facts.notes[-1])
        raise InputError(
            f"{name} holds no record of vit-export, which says what pixels it takes: expected a file that vit-export "
            "wrote; export the model with it."
        )
    record = ModelRecord.from_dict(facts.record)
    artifact = artifact_of(path)
    _check(name, artifact, record)
    report, result = verified(path, artifact.sha256)
    return Subject(artifact, record, facts.schema, report, result)


def _check(name: str, artifact: Artifact, record: ModelRecord) -> None:
    spec = record.spec
    if artifact.inputs and artifact.inputs[0].layout == "NCHW":
        raise InputError(
            f"{name} takes NCHW images, the code of a bundle feeds NHWC: export without --layout nchw or --hf-layout."
        )
    wanted = list(spec.outputs)
    found = [entry.name for entry in artifact.outputs]
    if found == ["features"] and wanted == ["pooled"]:  # as earlier releases called it
        wanted = found
    if [entry.name for entry in artifact.inputs] != [INPUT_NAME] or found != wanted:
        raise InputError(
            f"{name} was changed since vit-export wrote it: expected the input {INPUT_NAME} and the output "
            f"{', '.join(wanted)}; export the model again."
        )
    if wanted == ["tokens"]:
        raise InputError(f"{name} returns tokens alone, the code of a bundle reads a vector: export features, too.")
    if artifact.extra_files and not (len(artifact.extra_files) == 1 and _DATA_NAME.fullmatch(artifact.extra_files[0])):
        raise InputError(
            f"{name} keeps weights in {shortened(repr(', '.join(artifact.extra_files)))}, expected one file beside it "
            "that is called as exports call it, like vit_b16_float32.onnx.data: export the model again."
        )
    image, output = artifact.inputs[0], artifact.outputs[0]
    if image.shape and image.shape[0] != 1:
        raise InputError(
            f"{name} takes {image.shape[0] or 'any number of'} images at a time, the code of a bundle feeds one: "
            "export with --batch 1."
        )
    if image.shape != (1, *spec.image_sides, 3) or output.shape != (1, spec.output_size):
        raise InputError(
            f"{name} does not have the shapes that its record says ({shown_sides(spec.image_size, ' x ')} pixels in, "
            f"{spec.output_size} numbers out): export the model again."
        )
    for entry, known in ((image, _INPUTS), (output, _OUTPUTS)):
        quantized = entry.dtype == "int8" and None in (entry.scale, entry.zero_point)
        if entry.dtype not in known or quantized:
            raise InputError(
                f"{name}: {entry.name} is {entry.dtype}{' without a scale' if quantized else ''}, expected "
                f"{', '.join(known)}: export the model again."
            )
    if record.preprocessing.image_size != spec.image_size:
        raise InputError(f"{name}: its preprocessing is for another size of image than it takes; export it again.")
    if record.labels is not None and len(record.labels) != spec.num_classes:
        raise InputError(f"{name} names {len(record.labels)} classes, it has {spec.num_classes or 0}: export it again.")
