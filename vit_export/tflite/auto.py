"""The int8 scheme `auto`: the search of `vit_export.int8.search`, with real files to measure."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_export.base.files import move_into
from vit_export.base.quiet import quiet
from vit_export.base.reporting import Reporter
from vit_export.base.signal import overall_sqnr_db
from vit_export.images.pictures import Pictures
from vit_export.int8 import sensitivity, tune
from vit_export.int8.budget import Budget, Measured
from vit_export.int8.modes import Modes, quick, static
from vit_export.int8.recipe import Recipe
from vit_export.int8.search import search
from vit_export.int8.tune import Tuning
from vit_export.model.artifact import Artifact, FileOptions
from vit_export.model.names import SEARCHED
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.runtimes.runner import open_runner
from vit_export.tflite.int8 import write_int8_tflite
from vit_export.tflite.write import write_tflite

MOST_JUDGED, FEWEST_JUDGED, MACS = 64, 4, 1e11
"""Images that a file is measured on: as many as `MACS` multiply-accumulates pay for, within these bounds."""


def write_within(
    budget: Budget,
    source: ParameterSource,
    record: ModelRecord,
    path: Path,
    pictures: Pictures,
    options: FileOptions,
    reporter: Reporter,
) -> Artifact:
    """Write the fastest int8 file that keeps `budget`, or the best that was found, and tell how it was found.

    `pictures` are the representative dataset. Files are judged on the end of it, against the float file, so that what
    they were tuned by does not flatter them; their ranges come from all of it, since a range that lacks an image costs
    more than it flatters. Every mix that is tried is written once, in a folder beside `path`; the
    one that is chosen becomes the file.

    Raises:
        InputError: a budget that cannot be judged; see also `write_int8_tflite`.
    """
    spec, batch = source.spec, options.batch
    batches = pictures.batches(batch, options.input)
    count = min(-(-images_judged(spec) // batch), max(1, len(batches) // 2))
    judged = np.concatenate([batches[i] for i in range(len(batches) - count, len(batches))])
    reporter.step("Tuning int8 (static) layer by layer")
    images = pictures.normalized(tune.images_wanted(spec), count * batch)
    tuning = tune.tune(source, images, static(spec), reporter.progress)
    tried: dict[Modes, Artifact] = {}
    with tempfile.TemporaryDirectory(prefix=".auto-", dir=path.parent) as work:
        exact = Path(work) / "float32.tflite"
        write_tflite(source, record, exact, batch=batch, input=options.input)
        wanted = _answers(exact, judged)

        def measure(modes: Modes, tuned: Tuning) -> Measured:
            reporter.step("Writing and measuring a mix of int8 modes")
            tried[modes] = write_int8_tflite(
                source, record, Path(work) / f"{len(tried)}.tflite", Recipe(named(modes), modes, tuned), batches,
                batch=batch, input=options.input, progress=reporter.progress,
            )  # fmt: skip
            found = _answers(Path(tried[modes].path), judged)
            agreement = None
            if spec.num_classes is not None:
                agreement = float((found.argmax(1) == wanted.argmax(1)).mean())
            return Measured(overall_sqnr_db(wanted, found), agreement)

        def retune() -> tune.Tuning:
            reporter.step("Tuning int8 (mixes) layer by layer")
            chosen = pictures.normalized(tune.images_wanted(spec), count * batch)
            return tune.tune(source, chosen, quick(spec), reporter.progress)

        def named(modes: Modes) -> str:
            return "static" if modes == static(spec) else SEARCHED

        def measuring(done: int, total: int) -> None:
            if done == 0:
                reporter.step("Measuring what each layer costs")
            reporter.progress(done, total)

        images = pictures.normalized(sensitivity.images_wanted(spec), count * batch)
        choice = search(source, images, tuning, measure, budget, measuring, retune)
        chosen = tried[choice.modes]
        move_into(path.parent, [Path(chosen.path).rename(Path(work) / path.name)])
    reporter.note(f"{path.name}: {choice.summary()}.")
    told = {**(chosen.quantization or {}), "search": choice.to_dict()}
    return replace(chosen, path=str(path), quantization=told)


def images_judged(spec: ViTSpec) -> int:
    """How many images a file of `spec` is measured on."""
    return int(np.clip(MACS / spec.num_macs, FEWEST_JUDGED, MOST_JUDGED))


def _answers(path: Path, images: np.ndarray) -> np.ndarray:
    with quiet():
        return open_runner(path, "tflite").run(images)
