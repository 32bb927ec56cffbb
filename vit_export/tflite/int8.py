"""An int8 .tflite file from parameters: tuned, written in float, calibrated, quantized."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_export.base.scratch import owned_folder
from vit_export.int8 import sensitivity
from vit_export.int8.modes import TUNED_FOR
from vit_export.int8.products import within_budget
from vit_export.int8.recipe import Recipe
from vit_export.int8.tune import images_wanted, tune
from vit_export.model.artifact import Artifact, InputKind
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.tflite.quantize import Progress, Ranges, calibrate_each, modes_of, rules_of, together, write_int8
from vit_export.tflite.write import write_for_now

STEADY = 0.8
"""Halves of a dataset agree less than this about 5 % of the tensors: then it says too little about their ranges.

With the default photographs and ViT-S/32, 128 images reach 0.87, four 0.74 (random weights)."""


def prepare(
    source: ParameterSource,
    scheme: str,
    images: Callable[[int], np.ndarray],
    *,
    progress: Progress | None = None,
) -> Recipe:
    """The recipe of a scheme by name, tuned for `source`.

    `images(n)` gives at most n of the representative dataset, normalized: float32 [n, height, width, 3].

    Raises:
        InputError: there is no such scheme.
    """
    spec = source.spec
    modes = modes_of(scheme, spec)
    tuning = tune(source, images(images_wanted(spec)), TUNED_FOR[scheme](spec), progress)
    if modes is None or not modes.whole:
        return Recipe(scheme, modes, tuning)
    shown = images(sensitivity.images_wanted(spec))
    modes, tuning, note = within_budget(source, shown, modes, tuning, progress)
    return Recipe(scheme, modes, tuning, (note,) if note else ())


class FloatFile:
    """The float32 file that int8 ones are made of, at `path`: written for a recipe, and anew for another one."""

    def __init__(
        self,
        source: ParameterSource,
        record: ModelRecord,
        path: Path,
        *,
        batch: int = 1,
        input: InputKind = "normalized",
    ) -> None:
        self.path, self._source, self._record, self._batch, self._input = path, source, record, batch, input
        self._recipe: Recipe | None = None

    def of(self, recipe: Recipe) -> Path:
        """The file as `recipe` wants it.

        Raises:
            OutputError: it cannot be written.
        """
        if recipe is not self._recipe:
            self._recipe, tuned = None, recipe.tuning
            write_for_now(
                tuned.apply(self._source), self._record, self.path, batch=self._batch, input=self._input,
                extras=tuned.extras, kernels=recipe.kernels,
            )  # fmt: skip
            self._recipe = recipe
        return self.path


def write_int8_tflite(
    source: ParameterSource,
    record: ModelRecord,
    path: Path,
    recipe: Recipe,
    batches: Sequence[np.ndarray] = (),
    *,
    seen: Sequence[Ranges] | None = None,
    exact: Path | None = None,
    batch: int = 1,
    input: InputKind = "normalized",
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write the int8 file of `source` by `recipe`.

    `batches` are the representative dataset as the file takes it (`input_kinds.feed`), each [batch, height, width, 3];
    read one at a time, and not at all by a recipe that needs no ranges, or where they are known: `seen` is what
    `calibrate_each` found, with a recipe that differs in modes and bias corrections at most. `exact` is the `FloatFile`
    of the recipe where there is one.

    Raises:
        InputError: images are needed and there are none, or not such as the file takes.
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tuned, each = recipe.tuning, list(seen or ())
    with owned_folder(f".{path.name}.", path.parent) as folder:
        if exact is None:
            exact = FloatFile(source, record, folder / "float32.tflite", batch=batch, input=input).of(recipe)
        if recipe.calibrates and seen is None:
            each = calibrate_each(exact, batches, len(batches), progress=progress)
        artifact = write_int8(
            exact,
            record,
            path,
            scheme=recipe.scheme,
            rules=rules_of(recipe.scheme, recipe.modes),
            ranges=together(each) if recipe.calibrates else None,
            clips=tuned.clips,
            factors=tuned.factors,
            rounded=recipe.kernels,
            overwrite=overwrite,
        )
    halves = agreement_of_halves(each) if recipe.calibrates else None
    told = {
        "modes": None if recipe.modes is None else recipe.modes.to_dict(),
        "tuning": tuned.to_dict(),
        "agreement_of_halves": halves,
    }
    notes = (*artifact.notes, *recipe.notes)
    if halves is not None and halves["fifth_percentile"] < STEADY:
        notes += (
            f"The ranges of two halves of the representative dataset differ by up to "
            f"{100 * (1 - halves['fifth_percentile']):.0f} % (in all but one of twenty tensors): more images, or more "
            "alike those the app will see, make int8 more reliable.",
        )
    return replace(artifact, notes=notes, quantization=told)


def agreement_of_halves(seen: Sequence[Ranges]) -> dict[str, float] | None:
    """How alike the ranges of two halves of a dataset are, `seen` being those of each of its batches.

    For every tensor the narrower range of the two over the wider one: 1 where they are equally wide. None for a single
    batch, which has no halves.
    """
    if len(seen) < 2:
        return None
    first, second = ({n: _width(half, n) for n in seen[0]} for half in (seen[::2], seen[1::2]))
    ratios = [min(first[n], second[n]) / max(first[n], second[n]) for n in seen[0] if max(first[n], second[n]) > 0]
    percentiles = dict(zip(("smallest", "fifth_percentile", "median"), np.percentile(ratios, (0, 5, 50)), strict=True))
    return {name: float(value) for name, value in percentiles.items()}


def _width(seen: Sequence[Ranges], name: str) -> float:
    return max(ranges[name][1] for ranges in seen) - min(ranges[name][0] for ranges in seen)
