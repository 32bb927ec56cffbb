"""Where faults are made: a reference, and the good files that the real converters make of it."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from conftest import RandomParameters, build

from helpers.shown import pictures_of
from vit_export.images.pictures import Pictures
from vit_export.model.artifact import Artifact
from vit_export.model.input_kinds import feed
from vit_export.model.parameters import ParameterSource
from vit_export.model.preprocessing import Preprocessing, normalize
from vit_export.model.record import ModelRecord, read_record
from vit_export.model.saved_model import assign_parameters, write_saved_model
from vit_export.model.spec import ViTSpec

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LABELS = ("tench", "goldfish", "shark", "ray", "cock", "hen", "ostrich", "finch", "junco", "robin")

Maker = Callable[["Bench", Path], Artifact]


def pictures(count: int, size: int, seed: int = 7) -> np.ndarray:
    """Pictures whose patches, channels, rows and columns differ, uint8 [count, size, size, 3]."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (count, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    contrast = random.uniform(0.3, 1, (count, 1, 1, 3))
    fine = random.uniform(-60, 60, (count, size, size, 3))
    return np.clip(contrast * coarse + fine, 0, 255).astype(np.uint8)


class Changed:
    """The parameters of `source` with some of them replaced."""

    def __init__(self, source: ParameterSource, values: Mapping[str, np.ndarray], spec: ViTSpec | None = None) -> None:
        self.spec = spec or source.spec
        self._source, self._values = source, values

    def read(self, name):
        value = self._values[name] if name in self._values else self._source.read(name)
        return np.ascontiguousarray(value, np.float32)


class Bench:
    """A reference and the files made of it; each good file is written once, when it is asked for.

    `pixels` are the pictures to verify on, uint8 [n, s, s, 3]; `calibration` those that ranges are taken from.
    """

    def __init__(
        self,
        source: ParameterSource,
        folder: Path,
        pixels: np.ndarray,
        calibration: np.ndarray,
        *,
        preprocessing: Preprocessing | None = None,
        labels: tuple[str, ...] | None = None,
        trained: bool = False,
    ) -> None:
        size = source.spec.image_size
        preprocessing = preprocessing or Preprocessing(size, *IMAGENET)
        self.source, self.folder, self.pixels, self.calibration = source, folder, pixels, calibration
        self.trained, self.reference = trained, folder / "saved_model"
        record = ModelRecord(source.spec, preprocessing, {"source": "test", "trained": trained}, labels)
        write_saved_model(_model_of(source), self.reference, record)
        # With the fingerprint of the weights, as converters get it.
        self.record = read_record(self.reference)
        self._good: dict[tuple[Any, ...], Artifact] = {}

    @property
    def spec(self) -> ViTSpec:
        return self.source.spec

    @property
    def pictures(self) -> Pictures:
        names = [f"held_out/{i:03}.png" for i in range(len(self.pixels))]
        return pictures_of(self.pixels, names, self.record.preprocessing)

    def files(self) -> dict[str, Artifact]:
        """The good files that were asked for, by kind and options."""
        return {
            " ".join((kind, *(f"{k} {v}" for k, v in options))): file for (kind, *options), file in self._good.items()
        }

    def good(self, kind: str, **options) -> Artifact:
        """The good file of a kind, such as 'tflite int8 static' or 'onnx float32'."""
        key = (kind, *sorted(options.items()))
        if key not in self._good:
            name = "_".join(map(str, (*kind.split(), *(f"{k}-{v}" for k, v in sorted(options.items())))))
            path = self.folder / f"good_{name}.{kind.partition(' ')[0]}"
            self._good[key] = self.export(kind, path, **options)
        return self._good[key]

    def export(
        self,
        kind: str,
        path: Path,
        source: ParameterSource | None = None,
        record: ModelRecord | None = None,
        *,
        batch: int | None = 1,
        input: str = "normalized",
        tuned: bool = False,
        clips: Mapping[str, tuple[float, float]] | None = None,
        calibration: np.ndarray | None = None,
        **options,
    ) -> Artifact:
        """A file of `kind` by the converter that a user's export runs."""
        from vit_export.int8.modes import TUNED_FOR
        from vit_export.int8.recipe import Recipe
        from vit_export.int8.tune import Tuning, images_wanted, tune
        from vit_export.onnx import write_int8_onnx, write_onnx
        from vit_export.tflite.int8 import write_int8_tflite
        from vit_export.tflite.quantize import modes_of
        from vit_export.tflite.write import write_tflite

        format, precision, scheme = (*kind.split(), None)[:3]
        source, record = source or self.source, record or self.record
        common = {"batch": batch, "input": input, **options}
        if precision == "int8":
            shown = self.calibration if calibration is None else calibration
            tuning = Tuning(clips=clips or {})
            if tuned:
                some = normalize(shown[: images_wanted(source.spec)], record.preprocessing)
                tuning = tune(source, some, TUNED_FOR[scheme](source.spec))
            fed = feed(shown, input, record.preprocessing)
            step = batch or 1
            batches = [fed[i : i + step] for i in range(0, len(fed) - step + 1, step)]
            if format == "onnx":
                return write_int8_onnx(source, record, path, batches, tuning, scheme=scheme, **common)
            recipe = Recipe(scheme, modes_of(scheme, source.spec), tuning)
            return write_int8_tflite(source, record, path, recipe, batches, **common)
        if format == "tflite":
            return write_tflite(source, record, path, precision=precision, **common)
        return write_onnx(source, record, path, precision=precision, **common)


def _model_of(source: ParameterSource) -> Any:
    """The Keras model of `source`, until the next one of its spec is asked for: to build one takes a second."""
    model = _built(source.spec)
    assign_parameters(model, source.read)
    return model


@lru_cache(maxsize=2)
def _built(spec: ViTSpec) -> Any:
    return build(RandomParameters(spec))


def toy_bench(folder: Path, spec: ViTSpec, *, seed: int = 0, count: int = 6, source: Any = None, **options) -> Bench:
    """A Bench of random weights."""
    source = source or RandomParameters(spec, seed)
    size = spec.image_size
    return Bench(source, folder, pictures(count, size), pictures(16, size, seed=8), **options)


def dark_bench(folder: Path) -> Bench:
    """Tokens whose variance is that of 1e-5: what LayerNorm's epsilon is counts."""
    from helpers.faults_table import SPEC

    source = RandomParameters(SPEC)
    for name in ("patch_embedding/kernel", "patch_embedding/bias", "class_token", "position_embedding"):
        source = source.replaced(name, source.read(name) * np.float32(2e-3))
    return toy_bench(folder, SPEC, source=source)


def digits_bench(folder: Path) -> Bench:
    """The model that was trained on handwritten digits, and digits that it never saw."""
    from helpers import digits

    images, _ = digits.pictures()
    unseen = digits.held_out()
    return Bench(
        digits.DigitsParameters(),
        folder,
        images[unseen][:100],
        images[~unseen][:32],
        preprocessing=digits.PREPROCESSING,
        trained=True,
    )


def labelled_bench(folder: Path) -> Bench:
    from helpers.faults_table import SPEC

    return toy_bench(folder, SPEC, labels=LABELS)


BENCHES = {"toy": labelled_bench, "dark": dark_bench, "digits": digits_bench}
