"""An int8 .tflite file from parameters: tuned, written in float, calibrated, quantized."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vit_export.int8.modes import Modes, static
from vit_export.int8.tune import Tuning, images_wanted, tune
from vit_export.parameters import ParameterSource
from vit_export.records import Artifact, InputKind
from vit_export.saved_model import ModelRecord
from vit_export.tflite.convert import write_tflite
from vit_export.tflite.quantize import Progress, calibrate, modes_of, rules_of, write_int8


@dataclass(frozen=True)
class Recipe:
    """How one int8 file is made: what it is called, what computes in what (None: everything int8), what was tuned."""

    scheme: str
    modes: Modes | None
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def calibrates(self) -> bool:
        """Whether ranges are needed."""
        return self.modes is None or self.modes.need_ranges


def prepare(
    source: ParameterSource,
    scheme: str,
    images: Callable[[int], np.ndarray],
    *,
    progress: Progress | None = None,
) -> Recipe:
    """The recipe of a scheme by name, tuned for `source`.

    `images(n)` gives at most n of the representative dataset, normalized: float32 [n, size, size, 3].

    Raises:
        InputError: there is no such scheme.
    """
    modes = modes_of(scheme, source.spec)
    # Where every operator is int8 the Dense layers and products still are what equalization helps.
    tuning = tune(source, images(images_wanted(source.spec)), modes or static(source.spec), progress)
    return Recipe(scheme, modes, tuning)


def write_int8_tflite(
    source: ParameterSource,
    record: ModelRecord,
    path: Path,
    recipe: Recipe,
    batches: Sequence[np.ndarray],
    *,
    batch: int = 1,
    input: InputKind = "normalized",
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write the int8 file of `source` by `recipe`.

    `batches` are the representative dataset as the file takes it (`pixels.feed`), each [batch, size, size, 3]; read one
    at a time, and not at all by a recipe that needs no ranges.

    Raises:
        InputError: images are needed and there are none, or not such as the file takes.
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        exact = Path(folder) / "float32.tflite"
        tuned = recipe.tuning
        write_tflite(tuned.apply(source), record, exact, batch=batch, input=input, kept_norms=tuned.kept_norms)
        ranges = calibrate(exact, batches, len(batches), progress=progress) if recipe.calibrates else None
        return write_int8(
            exact,
            record,
            path,
            scheme=recipe.scheme,
            rules=rules_of(recipe.modes),
            ranges=ranges,
            clips=tuned.clips,
            overwrite=overwrite,
        )
