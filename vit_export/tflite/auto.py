"""The int8 scheme `auto`: the search of `vit_export.int8.search`, with real files to measure."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vit_export.base.quiet import quiet
from vit_export.base.signal import overall_sqnr_db
from vit_export.int8 import sensitivity, tune
from vit_export.int8.modes import Modes, static
from vit_export.int8.search import Budget, Choice, Measured, search
from vit_export.int8.tune import Tuning
from vit_export.model.artifact import InputKind
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.runtimes.runner import open_runner
from vit_export.tflite.convert import write_tflite
from vit_export.tflite.int8 import Recipe, write_int8_tflite
from vit_export.tflite.quantize import Progress

MOST_JUDGED, FEWEST_JUDGED, MACS = 64, 4, 3e11
"""Images that a file is measured on: as many as `MACS` multiply-accumulates pay for, within these bounds."""


def find_recipe(
    source: ParameterSource,
    record: ModelRecord,
    folder: Path,
    images: Callable[[int, int], np.ndarray],
    batches: Sequence[np.ndarray],
    budget: Budget,
    *,
    batch: int = 1,
    input: InputKind = "normalized",
    step: Callable[[str], None] = lambda text: None,
    progress: Progress | None = None,
) -> tuple[Recipe, Choice]:
    """The fastest recipe that keeps `budget`, or the best that was found, and how it was found.

    `batches` are the representative dataset, as for `write_int8_tflite`. Files are judged on the end of it, against the
    float file, so that what they were tuned by does not flatter them: `images(n, m)` gives at most n of the others,
    without the last m, normalized. Trial files go to `folder` and are gone afterwards.

    Raises:
        InputError: a budget that cannot be judged; see also `write_int8_tflite`.
    """
    spec = source.spec
    budget.check(spec)
    count = min(-(-images_judged(spec) // batch), max(1, len(batches) // 2))
    judged = np.concatenate([batches[i] for i in range(len(batches) - count, len(batches))])
    step("Tuning int8 (static) layer by layer")
    tuning = tune.tune(source, images(tune.images_wanted(spec), count * batch), static(spec), progress)
    with tempfile.TemporaryDirectory(prefix=".auto-", dir=folder) as work:
        exact, trial = Path(work) / "float32.tflite", Path(work) / "trial.tflite"
        write_tflite(source, record, exact, batch=batch, input=input)
        wanted = _answers(exact, judged)

        def measure(modes: Modes, tuned: Tuning) -> Measured:
            step("Writing and measuring a mix of int8 modes")
            write_int8_tflite(
                source, record, trial, Recipe("auto", modes, tuned), batches,
                batch=batch, input=input, progress=progress, overwrite=True,
            )  # fmt: skip
            found = _answers(trial, judged)
            agreement = None
            if spec.num_classes is not None:
                agreement = float((found.argmax(1) == wanted.argmax(1)).mean())
            return Measured(overall_sqnr_db(wanted, found), agreement)

        def measuring(done: int, total: int) -> None:
            if done == 0:
                step("Measuring what each layer costs")
            if progress:
                progress(done, total)

        choice = search(
            source, images(sensitivity.images_wanted(spec), count * batch), tuning, measure, budget, measuring
        )
    return Recipe("auto", choice.modes, choice.tuning), choice


def images_judged(spec: ViTSpec) -> int:
    """How many images a file of `spec` is measured on."""
    return int(np.clip(MACS / spec.num_macs, FEWEST_JUDGED, MOST_JUDGED))


def _answers(path: Path, images: np.ndarray) -> np.ndarray:
    with quiet():
        return open_runner(path, "tflite").run(images)
