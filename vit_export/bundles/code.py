"""The code and the instructions of a bundle, from templates: what differs from model to model is numbers alone.

Nothing that anybody typed is ever in code: the model's file and its tensors have fixed names, labels lie in a file of
their own. Titles and instructions, where names do appear, are escaped.
"""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vit_export.base.text import visible
from vit_export.bundles.source import Subject
from vit_export.bundles.targets import Row, minimum_of, release_of
from vit_export.model.input_kinds import left_to_do
from vit_export.model.names import LABELS_NAME
from vit_export.model.spec import shown_sides

PLATFORMS = {"android": "Android", "ios": "iOS", "linux": "Linux", "web": "web pages"}

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&])")
_PURPOSES = {
    "model.tflite": "the model",
    "model.onnx": "the model",
    "model.ort": "the model in ONNX Runtime's own format",
    "required_operators.config": "the operators it needs, for a smaller build of ONNX Runtime",
    LABELS_NAME: "the names of the classes, a line each",
    "metadata.json": "what goes in and what comes out, for machines",
    "Classifier.kt": "loads the model and runs it",
    "Classifier.swift": "loads the model and runs it",
    "Pixels.kt": "makes the model's input of an image",
    "Pixels.swift": "makes the model's input of an image",
    "Camera.kt": "looks at camera frames; leave it out where there is no camera",
    "Camera.swift": "looks at camera frames; leave it out where there is no camera",
    "build.gradle.kts": "makes the folder a module of an app: what it needs, and from which Android on",
    "consumer-rules.pro": "what R8 must leave alone in an app that is shrunk",
    "AndroidManifest.xml": "asks for the camera",
    "pixels.mjs": "makes the model's input of an image",
    "classify.py": "the command: from a photograph or a camera to answers",
    "classifier.py": "loads the model and runs it",
    "pixels.py": "makes the model's input of an image",
    "camera.py": "a camera's frames",
    "classify.mjs": "loads the model and runs it",
    "index.html": "a page to try it",
    "check.json": "a photograph and what the model says of it: a GPU that says something else is left out",
    "MODEL_CARD.md": "what the model is, what was measured, what it cannot do",
    "LICENCE": "the terms of the weights",
    "SHA256SUMS": "digests of all files",
}


def templates() -> Environment:
    """The templates of bundles; those of pages escape what is put into them."""
    return Environment(
        loader=PackageLoader("vit_export", "data/bundle"),
        autoescape=lambda name: bool(name) and name.endswith(".html.j2"),  # type: ignore[arg-type, union-attr]
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def markdown(text: Any) -> str:
    """`text` as one line that reads in Markdown as it stands here, whatever is in it."""
    return _MARKUP.sub(r"\\\1", " ".join(visible(str(text)).split()))


def code_files(subject: Subject, row: Row, model: str) -> dict[str, str]:
    """The files of code for one target, by name; `model` is the model's file there."""
    values, environment = _values(subject, row, model), templates()
    return {file: environment.get_template(f"{name}.j2").render(values) for file, name in row.files.items()}


def readme(subject: Subject, row: Row, target: str, model: str, names: list[str]) -> str:
    """README.md of a bundle that holds the files `names`."""
    values = _values(subject, row, model)
    values |= {
        "name": markdown(subject.path.name),
        "platform": PLATFORMS[target],
        "what": what(subject),
        "contents": [_content(name) for name in names if name != "README.md"],
        "instructions": f"{target}.md.j2",
        "preprocessing": preprocessing(subject),
        "least": minimum_of(subject) or values["release"],
        "ort": model.endswith(".ort"),
        "extras": [markdown(name) for name in subject.artifact.extra_files],
    }  # fmt: skip
    return templates().get_template("README.md.j2").render(values)


def uses_gpu(subject: Subject, row: Row) -> bool:
    """Whether the code tries a GPU by itself: in pages, but for int8 in ONNX Runtime, which would go to and fro."""
    pages = "index.html" in row.files
    return pages and (subject.artifact.format == "tflite" or subject.artifact.precision != "int8")


def _content(name: str) -> tuple[str, str]:
    """A file of a bundle and what it is for, as the table of its README has them."""
    purpose = _PURPOSES.get(name.rpartition("/")[2])
    return (markdown(name), "weights of the model") if purpose is None else (f"`{name}`", purpose)


def what(subject: Subject) -> str:
    """One sentence on what the model does."""
    spec = subject.record.spec
    size = f"{shown_sides(spec.image_size, ' x ')} pixels"
    if subject.record.answers == "multi_label_classification":
        return (
            f"A Vision Transformer that gives {spec.num_classes} labels to images of {size}, several at once: a number "
            "for each, whose sigmoid is its probability."
        )
    if subject.record.answers == "regression":
        numbers = "a number" if spec.num_classes == 1 else f"{spec.num_classes} numbers"
        return f"A Vision Transformer that estimates {numbers} from an image of {size}."
    if not subject.classifies:
        return f"A Vision Transformer without classifier: {spec.output_size} numbers that stand for an image of {size}."
    return f"A Vision Transformer that sorts images of {size} into {spec.num_classes} classes."


def preprocessing(subject: Subject) -> str:
    """What happens to an image before the model sees it, in sentences."""
    done = subject.record.preprocessing
    size = shown_sides(done.image_size, " x ")
    if done.resize == "squash":
        shape = f"The image is resized straight to {size} pixels"
    elif done.resized_sides[0] == done.resized_sides[1]:
        shape = (
            f"The image is resized so that its shortest side has {done.resized_side} pixels, and the centre of "
            f"{size} is cut out"
        )
    else:
        covered = "{} x {}".format(*done.resized_sides)
        shape = (
            f"The image is resized so that it just covers {covered} pixels, its aspect ratio kept, and the centre of "
            f"{size} is cut out"
        )
    entry = subject.input
    mean, std = left_to_do(entry.values, done)
    if entry.dtype == "uint8":
        numbers = "the model takes the pixels as they are, uint8 from 0 to 255"
    else:
        numbers = f"`(pixel / 255 - mean) / std` is computed, with mean {list(mean)} and std {list(std)}"
    if entry.dtype == "int8":
        numbers += f", which is quantized by `round(value / {entry.scale}) + {entry.zero_point}`"
    return f"{shape} ({done.interpolation}, antialiased, as Pillow does); then {numbers}, in RGB order."


def _values(subject: Subject, row: Row, model: str) -> dict[str, Any]:
    """What templates of code are filled with: numbers, and names from lists in this package."""
    done, entry, output = subject.record.preprocessing, subject.input, subject.output
    mean, std = left_to_do(entry.values, done)
    return {
        "runtime": row.runtime,
        "release": release_of(row),
        "format": subject.artifact.format,
        "model": model,
        "height": done.image_sides[0],
        "width": done.image_sides[1],
        "resize": done.resize,
        "resized_height": done.resized_sides[0],
        "resized_width": done.resized_sides[1],
        "interpolation": done.interpolation,
        "dtype": entry.dtype,
        "scale": entry.scale,
        "zero_point": entry.zero_point,
        "mean": list(mean),
        "std": list(std),
        "output": output.name,
        "all_outputs": [entry.name for entry in subject.artifact.outputs],
        "outputs": subject.record.spec.output_size,
        "output_dtype": output.dtype,
        "output_scale": output.scale,
        "output_zero_point": output.zero_point,
        "classifies": subject.classifies,
        "gpu": uses_gpu(subject, row),
        "labelled": subject.record.labels is not None,
        "name": visible(subject.path.name),
    }
