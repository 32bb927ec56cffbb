"""What a model record rests on without anybody having said it, and the options that say it."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_export.model.labels import IMAGENET, read_labels
from vit_export.model.record import ModelRecord

_IMAGENET_SIZES = (1000, 1001, 21841, 21842, 21843)

_TOPICS = ("heads", "scaling", "resizing", "labels")
"""Topics of `ModelRecord.assumed` that an option says."""


def said_by_options(record: ModelRecord, own: ModelRecord, topics: Sequence[str] = _TOPICS) -> dict[str, str | None]:
    """Options that say, as `own` has it, what `record` assumes on `topics`."""
    pixels, found = own.preprocessing, dict[str, str | None]()
    for topic in (topic for topic in topics if topic in record.assumed):
        if topic == "heads":
            found["--num-heads"] = str(own.spec.num_heads)
        elif topic == "scaling":
            found["--mean"], found["--std"] = (
                ",".join(f"{value:.9g}" for value in values) for values in (pixels.mean, pixels.std)
            )
        elif topic == "resizing":
            found["--resize"], found["--interpolation"] = pixels.resize, pixels.interpolation
            found["--crop-fraction"] = f"{pixels.crop_fraction:g}"
        else:
            found["--labels"] = IMAGENET if is_imagenet(own) else "FILE"
    return found


def guesses_told(record: ModelRecord, said: Mapping[str, Any]) -> str:
    """The assumptions of `record` that the options `said` are about, as phrases."""
    return "; ".join(
        text for topic, text in record.assumed.items() if said_by_options(record, record, [topic]).keys() & said
    )


def contradicted(reference: ModelRecord, own: ModelRecord) -> dict[str, str | None]:
    """Options that say of the reference what it assumes, where the file has it otherwise, as the file has it."""
    unlike = {
        "heads": own.spec.num_heads != reference.spec.num_heads,
        "scaling": (own.preprocessing.mean, own.preprocessing.std)
        != (reference.preprocessing.mean, reference.preprocessing.std),
        "resizing": own.preprocessing.resize != reference.preprocessing.resize
        or own.preprocessing.crop_fraction != reference.preprocessing.crop_fraction
        or own.preprocessing.interpolation != reference.preprocessing.interpolation,
        "labels": own.labels != reference.labels,
    }
    return said_by_options(reference, own, [topic for topic, differs in unlike.items() if differs])


def is_own_domain(record: ModelRecord) -> bool:
    """Whether the model was trained on classes other than ImageNet's, and so on images that photographs may not be."""
    return record.trained and record.spec.num_classes is not None and not is_imagenet(record)


def is_imagenet(record: ModelRecord) -> bool:
    """Whether the classes are those of ImageNet, by their names, or else by their number."""
    if record.labels:
        first = record.labels[0].partition(",")[0].strip().lower()
        known = read_labels(IMAGENET)[0].partition(",")[0]
        return len(record.labels) in _IMAGENET_SIZES and (len(record.labels) > 1000 or first == known)
    return record.spec.num_classes in _IMAGENET_SIZES
