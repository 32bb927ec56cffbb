"""The int8 scheme `auto`: the search of `vit_export.int8.search`, with real files to measure."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from vit_export.base.quiet import quiet
from vit_export.base.reporting import Reporter
from vit_export.base.scratch import owned_folder
from vit_export.base.signal import overall_sqnr_db
from vit_export.images.pictures import Pictures, spread
from vit_export.int8 import sensitivity, tune
from vit_export.int8.answers import answers
from vit_export.int8.budget import Budget, Measured
from vit_export.int8.modes import Modes, mixed, static
from vit_export.int8.recipe import Recipe
from vit_export.int8.search import search
from vit_export.int8.tune import Tuning
from vit_export.model.artifact import Artifact, FileOptions
from vit_export.model.names import SEARCHED
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.runtimes.runner import open_runner
from vit_export.tflite.int8 import FloatFile, write_int8_tflite
from vit_export.tflite.quantize import Ranges, calibrate_each

MOST_JUDGED, FEWEST_JUDGED, MACS = 64, 4, 4e11
"""Images that a file is measured on: as many as `MACS` multiply-accumulates pay for, within these bounds.

Of few, a single one decides: softmax·V in int8 in one layer of DINOv2-S/14 costs 0.5 dB by 16 of them, 1.4 by 128.
"""


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

    `pictures` are the representative dataset. Files are judged on a part of it that is spread over the whole, against
    the float file, with tuning and ranges that know the rest alone: what is measured is to hold for images that nobody
    has seen. The mix that is chosen then takes its ranges from all. Mixes are written to a folder beside `path`.

    Raises:
        InputError: a budget that cannot be judged; see also `write_int8_tflite`.
    """
    spec, batch = source.spec, options.batch
    judging = spread(range(len(pictures)), min(images_judged(spec), max(1, len(pictures) // 2)))
    others = [i for i in range(len(pictures)) if i not in set(judging)] or judging
    judged, known = (pictures.batches(batch, options.input, among) for among in (judging, others))
    shown = np.concatenate(list(judged))
    seen = dict[str, list[Ranges]]()
    recipes = dict[Modes, Recipe]()
    path.parent.mkdir(parents=True, exist_ok=True)

    def tuned_for(modes: Modes, name: str) -> Tuning:
        reporter.step(f"Tuning int8 ({name}) layer by layer")
        images = pictures.normalized(tune.images_wanted(spec), others)
        return tune.tune(source, images, modes, reporter.progress)

    def ranges_of(recipe: Recipe) -> list[Ranges]:
        """Those of `known`, then those of `judged`: one pass over a large file takes less time than two."""
        if not recipe.calibrates:
            return []
        total = len(known) + len(judged)
        reporter.step(f"Calibrating on {total * batch} images")
        return calibrate_each(tuned.of(recipe), chain(known, judged), total, progress=reporter.progress)

    tuning = tuned_for(static(spec), "static")
    reporter.step("Computing the exact answers")
    wanted = answers(source, np.concatenate(list(pictures.batches(batch, "normalized", judging))))
    with owned_folder(".auto-", path.parent) as work:
        mix = work / "mix.tflite"
        tuned = FloatFile(source, record, work / "tuned.tflite", batch=batch, input=options.input)

        def measure(modes: Modes, tuning: Tuning) -> Measured:
            recipe = recipes[modes] = Recipe("static" if modes == static(spec) else SEARCHED, modes, tuning)
            # All mixes are of one tuning, but for bias corrections.
            if not seen.get(recipe.scheme):
                seen[recipe.scheme] = ranges_of(recipe)
            reporter.step("Writing and measuring a mix of int8 modes")
            write_int8_tflite(
                source, record, mix, recipe, seen=seen[recipe.scheme][: len(known)], exact=tuned.of(recipe),
                batch=batch, input=options.input, overwrite=True,
            )  # fmt: skip
            found = _answers(mix, shown)
            agreement = None
            if record.classifies:
                agreement = float((found.argmax(1) == wanted.argmax(1)).mean())
            return Measured(overall_sqnr_db(wanted, found), agreement)

        def measuring(done: int, total: int) -> None:
            if done == 0:
                reporter.step("Measuring what each layer costs")
            reporter.progress(done, total)

        images = pictures.normalized(sensitivity.images_wanted(spec), others)
        choice = search(source, images, tuning, measure, budget, measuring, lambda: tuned_for(mixed(spec), "mixes"))
        chosen = recipes[choice.modes]
        reporter.step("Writing the mix that was chosen")
        artifact = write_int8_tflite(
            source,
            record,
            path,
            chosen,
            seen=seen[chosen.scheme],
            exact=tuned.of(chosen),
            batch=batch,
            input=options.input,
        )
    reporter.note(f"{path.name}: {choice.summary()}.")
    return replace(artifact, quantization={**(artifact.quantization or {}), "search": choice.to_dict()})


def images_judged(spec: ViTSpec) -> int:
    """How many images a file of `spec` is measured on."""
    return int(np.clip(MACS / spec.num_macs, FEWEST_JUDGED, MOST_JUDGED))


def _answers(path: Path, images: np.ndarray) -> np.ndarray:
    with quiet():
        return open_runner(path, "tflite").run(images)
