"""An int8 .tflite file from parameters: tuned, written in float, calibrated, quantized."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_export.int8.modes import Modes, full_float, static
from vit_export.int8.recipe import Recipe
from vit_export.int8.tune import images_wanted, tune
from vit_export.model.artifact import Artifact, InputKind
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.tflite.quantize import Progress, Ranges, calibrate, modes_of, rules_of, write_int8
from vit_export.tflite.write import write_tflite

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

    `images(n)` gives at most n of the representative dataset, normalized: float32 [n, size, size, 3].

    Raises:
        InputError: there is no such scheme.
    """
    tuning = tune(source, images(images_wanted(source.spec)), tuned_modes(scheme, source.spec), progress)
    return Recipe(scheme, modes_of(scheme, source.spec), tuning)


def tuned_modes(scheme: str, spec: ViTSpec) -> Modes:
    """The modes that a file of `scheme` is tuned for.

    Where every operator is int8 the Dense layers and products still are what equalization helps. With activations of 16
    bits the noise is that of the rounded weights: what is tuned for is float with these.

    Raises:
        InputError: there is no such scheme.
    """
    return modes_of(scheme, spec) or (full_float if scheme == "w8a16" else static)(spec)


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

    `batches` are the representative dataset as the file takes it (`input_kinds.feed`), each [batch, size, size, 3];
    read one at a time, and not at all by a recipe that needs no ranges.

    Raises:
        InputError: images are needed and there are none, or not such as the file takes.
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        exact = Path(folder) / "float32.tflite"
        tuned = recipe.tuning
        write_tflite(
            tuned.apply(source), record, exact,
            batch=batch, input=input, kept_norms=tuned.kept_norms, kernels=recipe.kernels,
        )  # fmt: skip
        ranges, seen = None, list[Ranges]()
        if recipe.calibrates:
            ranges = calibrate(exact, batches, len(batches), progress=progress, each=seen.append)
        artifact = write_int8(
            exact,
            record,
            path,
            scheme=recipe.scheme,
            rules=rules_of(recipe.scheme, recipe.modes),
            ranges=ranges,
            clips=tuned.clips,
            overwrite=overwrite,
        )
    halves = agreement_of_halves(seen)
    told = {
        "modes": None if recipe.modes is None else recipe.modes.to_dict(),
        "tuning": tuned.to_dict(),
        "agreement_of_halves": halves,
    }
    notes = artifact.notes
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
