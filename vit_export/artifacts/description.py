"""What an exported file says of its model in the words of its format: a description, and who made it."""

from vit_export.base.versions import versions
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.spec import shown_sides

PRODUCER = "vit-export"

_NAMES = {"author": ("author",), "license": ("license", "licence")}


def describe(record: ModelRecord, kind: str) -> str:
    """What the model is and how its images are prepared, in one sentence or two; `kind` is precision and scheme."""
    return (
        f"Vision Transformer {record.spec.name}, {kind}, exported by {PRODUCER}. Images: RGB, "
        f"{_resizing(record.preprocessing)}, then normalized with the mean and std given for the input."
    )


def facts_for_people(record: ModelRecord, kind: str) -> dict[str, str]:
    """The facts that every format has a place for: "name", "description", and "version", "author", "license" if known.

    The version is that of this package, the author and the license are those that the record of the weights names.
    """
    facts = {"name": record.spec.name, "description": describe(record, kind)}
    if (version := versions(PRODUCER)[PRODUCER]) != "not installed":
        facts["version"] = version
    for fact, names in _NAMES.items():
        if known := next((record.weights[name] for name in names if record.weights.get(name)), None):
            facts[fact] = str(known)
    return facts


def _resizing(preprocessing: Preprocessing) -> str:
    size = f"{shown_sides(preprocessing.image_size)} pixels"
    if preprocessing.resize == "squash":
        return f"resized to {size} whatever their shape ({preprocessing.interpolation})"
    height, width = preprocessing.resized_sides
    covered = f"the shortest side resized to {height}" if height == width else f"resized to cover {height}x{width}"
    return (
        f"{covered} pixels ({preprocessing.interpolation}), the central {size} cut out (to be done first where a "
        "library, as MediaPipe, resizes the whole image)"
    )
