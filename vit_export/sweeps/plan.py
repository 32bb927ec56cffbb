"""What a sweep goes over: its request, from arguments or a TOML file, and the grid that follows from it."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_export.base.checks import is_number, is_whole, number, whole_number
from vit_export.base.errors import InputError, first_line, nearest
from vit_export.base.files import input_errors, shortened
from vit_export.evaluation.classes import SORTED
from vit_export.evaluation.evaluate import MAX_NEIGHBOURS, MAX_WORKERS
from vit_export.model.artifact import Format, InputKind, Precision
from vit_export.model.labels import IMAGENET
from vit_export.model.names import FORMATS, INPUTS, INT8_SCHEMES, MAX_THREADS, PRECISIONS, SCHEME_NAMES
from vit_export.model.spec import ImageSize, checked_size
from vit_export.model.variants import VARIANTS
from vit_export.pipeline.request import chosen, listed, path_of
from vit_export.weights.remote.fetch import is_remote

CONVERTED: tuple[Format, ...] = tuple(name for name in FORMATS if name != "saved_model")
"""The formats of a sweep's files."""
DEFAULT_OUTPUT = Path("exports") / "sweep"
_MAX_PLAN = 1 << 20
_SIZE = re.compile(r"([0-9]{1,9})(?:x([0-9]{1,9}))?")


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """Everything a user can ask of one sweep; construction checks types, names and numbers.

    `models` are variants and checkpoints (as `weights.open.open_checkpoint` takes them). Each is made in all of
    `formats`, `precisions`, `int8_schemes` (those that a format has; none for its default) and `image_sizes` (none for
    its own), with the default output or, with `features`, without classifier, for images as `input` says. `calibration`
    to `held_out_images` are those of an export. `data`, `labels`, `knn` and `train` are those of `evaluate`; `workers`
    is how many cells are made at a time, on the Ray cluster at `ray` if there is one. `threads` are those of the
    latency. `max_ms`, `max_drop` (points of accuracy) and `max_mb` are the budget that the file to ship keeps to.

    Raises:
        InputError: on construction, when a value has another type or is out of range, or two do not go together.
    """

    models: tuple[str, ...]
    output: Path = DEFAULT_OUTPUT
    formats: tuple[Format, ...] = CONVERTED
    precisions: tuple[Precision, ...] = tuple(PRECISIONS)
    int8_schemes: tuple[str, ...] = ()
    image_sizes: tuple[ImageSize, ...] = ()
    features: bool = False
    input: InputKind = "normalized"
    calibration: Path | None = None
    calibration_images: int = 128
    held_out_images: int | None = None
    data: str | None = None
    labels: str | None = None
    knn: int | None = None
    train: str | None = None
    workers: int = 1
    ray: str | None = None
    threads: int = 1
    max_ms: float | None = None
    max_drop: float | None = None
    max_mb: float | None = None

    def __post_init__(self) -> None:
        replaced: dict[str, object] = {
            "models": _once(_text("models", model) for model in listed("models", self.models, "a list of models")),
            "output": path_of("output", self.output),
            "image_sizes": _once(map(checked_size, listed("image_sizes", self.image_sizes, "a list of sizes"))),
        }
        for name, known in (("formats", CONVERTED), ("precisions", (*PRECISIONS,)), ("int8_schemes", SCHEME_NAMES)):
            found = listed(name, getattr(self, name), f"a list of some of {', '.join(known)}")
            replaced[name] = chosen(name, _once(found), known)
        if self.calibration is not None:
            replaced["calibration"] = path_of("calibration", self.calibration)
        for name, value in replaced.items():
            object.__setattr__(self, name, value)
        for name in ("models", "formats", "precisions"):
            if not getattr(self, name):
                raise InputError(f"There are no {name} to go over: name one or more.")
        self._check_values()
        self._check_schemes()
        self._check_evaluation()

    def _check_values(self) -> None:
        if self.input not in INPUTS:
            raise InputError(f"Unknown input {self.input!r:.40}: choose one of {', '.join(INPUTS)}.")
        if not isinstance(self.features, bool):
            raise InputError(f"features is {self.features!r:.40}, expected True or False.")
        whole_number("calibration_images", self.calibration_images, 1, 100_000)
        if self.held_out_images is not None:
            whole_number("held_out_images", self.held_out_images, 1, 100_000)
        whole_number("workers", self.workers, 1, MAX_WORKERS)
        whole_number("threads", self.threads, 1, MAX_THREADS)
        for name in ("max_ms", "max_drop", "max_mb"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), 0, 1e9)
        for name in ("data", "labels", "train", "ray"):
            if getattr(self, name) is not None:
                _text(name, getattr(self, name))

    def _check_schemes(self) -> None:
        if self.int8_schemes and "int8" not in self.precisions:
            raise InputError("--int8-scheme says how to quantize to int8: add --int8, or leave it out.")
        of_formats = {name: INT8_SCHEMES[name] for name in self.formats}
        for scheme in self.int8_schemes:
            if not any(scheme in schemes for schemes in of_formats.values()):
                has = "; ".join(f"{FORMATS[name].title}: {', '.join(known)}" for name, known in of_formats.items())
                raise InputError(f"No format of this sweep has the int8 scheme '{scheme}' ({has}): leave it out.")
        for name, schemes in of_formats.items():
            if self.int8_schemes and not {*schemes} & {*self.int8_schemes}:
                raise InputError(
                    f"{FORMATS[name].title} has none of the int8 schemes {', '.join(self.int8_schemes)}: add one of "
                    f"its own ({', '.join(schemes)}), or leave --{name} out."
                )

    def _check_evaluation(self) -> None:
        if (self.knn is None) != (self.train is None):
            raise InputError("--knn is the number of neighbours among the images of --train: give both, or neither.")
        if self.knn is not None:
            whole_number("knn", self.knn, 1, MAX_NEIGHBOURS)
        if self.data is None:
            for option, value in (("--labels", self.labels), ("--knn", self.knn), ("--max-drop", self.max_drop)):
                if value is not None:
                    raise InputError(
                        f"{option} is about accuracy, which --data measures: give --data, or leave it out."
                    )

    @property
    def files(self) -> tuple[tuple[Format, Precision, str | None], ...]:
        """The files of each model and size, as (format, precision, int8 scheme), in the order of the grid.

        With `data` there is a float32 file among them, asked for or not: what others lose is counted against it.
        """
        precisions = tuple(name for name in PRECISIONS if name in self.precisions)
        found: list[tuple[Format, Precision, str | None]] = []
        for format in self.formats:
            for precision in precisions:
                schemes: Iterable[str | None] = (None,)
                if precision == "int8":
                    schemes = [s for s in self.int8_schemes if s in INT8_SCHEMES[format]] or INT8_SCHEMES[format][:1]
                found += [(format, precision, scheme) for scheme in schemes]
        if self.adds_reference:
            found.insert(0, (self.formats[0], "float32", None))
        return tuple(found)

    @property
    def adds_reference(self) -> bool:
        """Whether float32 files are made that nobody asked for."""
        return self.data is not None and "float32" not in self.precisions


def read_plan(path: Path) -> dict[str, Any]:
    """The arguments of a `SweepRequest` that the TOML file `path` gives: keys are called like options, and `models`.

    Its relative paths are relative to the file.

    Raises:
        InputError: it cannot be read, is no TOML, or has a key or a type that no sweep takes.
    """
    name = shortened(path)
    with input_errors(path):
        if path.stat().st_size > _MAX_PLAN:
            raise InputError(f"{name} is longer than a plan may be ({_MAX_PLAN} bytes).")
        content = path.read_bytes()
    try:
        table = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} cannot be read as TOML ({first_line(error)}): correct it.") from error
    flags = [*CONVERTED, *PRECISIONS, "features"]
    arguments: dict[str, Any] = {}
    for key, value in table.items():
        if key in flags:
            _require(isinstance(value, bool), name, key, value, "true or false")
        elif key not in _KEYS:
            guess = nearest(key, [*flags, *_KEYS])
            hint = f"did you mean '{guess}'?" if guess else f"its keys are {', '.join([*flags, *_KEYS])}."
            raise InputError(f"{name} has the key '{shortened(key)}', which no sweep has: {hint}")
        else:
            argument, expected, takes = _KEYS[key]
            _require(takes(value), name, key, value, expected)
            several = argument in ("models", "int8_schemes", "image_sizes")
            values = value if isinstance(value, list) else [value]
            values = [_read(argument, each, path.parent) for each in values]
            arguments[argument] = values if several else values[0]
    return {**arguments, **files_asked({key: table[key] for key in flags if key in table})}


def files_asked(flags: Mapping[str, bool]) -> dict[str, Any]:
    """The arguments that flags called like formats and precisions, and `features`, stand for; nothing of none."""
    formats = [name for name in CONVERTED if flags.get(name)]
    precisions = [name for name in PRECISIONS if flags.get(name)]
    asked: dict[str, Any] = {"formats": formats, "precisions": precisions, "features": bool(flags.get("features"))}
    return {name: value for name, value in asked.items() if value}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return all(map(_is_text, value)) if isinstance(value, list) else _is_text(value)


def _are_sizes(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(is_whole(each) or (_is_text(each) and _SIZE.fullmatch(each) is not None) for each in values)


_KEYS: dict[str, tuple[str, str, Any]] = {
    "models": ("models", "a list of variants and checkpoints", _are_texts),
    "int8-scheme": ("int8_schemes", "a list of names", _are_texts),
    "image-size": ("image_sizes", 'a list of sizes such as 224 and "224x384"', _are_sizes),
    **{
        name: (name.replace("-", "_"), "text", _is_text)
        for name in ("input", "calibration", "data", "labels", "train", "output", "ray")
    },
    **{
        name: (name.replace("-", "_"), "a whole number", is_whole)
        for name in ("calibration-images", "held-out-images", "knn", "workers", "threads")
    },
    **{name: (name.replace("-", "_"), "a number", is_number) for name in ("max-ms", "max-drop", "max-mb")},
}
"""Keys of a plan beside the flags: the argument, what is expected, and what takes a value."""


def _require(holds: bool, plan: str, key: str, value: Any, expected: str) -> None:
    if not holds:
        raise InputError(f"{plan} has {value!r:.40} as {key}, expected {expected}.")


def _read(argument: str, value: Any, folder: Path) -> Any:
    """One value of a plan in `folder` as an argument."""
    if argument == "image_sizes" and isinstance(value, str):
        return checked_size([int(side) for side in value.split("x")] * (1 if "x" in value else 2))
    is_path = argument in ("models", "calibration", "data", "labels", "train", "output")
    words = {"models": VARIANTS, "labels": (IMAGENET, SORTED)}.get(argument, ())
    if not is_path or value in words or "://" in value or is_remote(value):
        return value
    return str(folder / value)


def _once(values: Iterable[Any]) -> tuple[Any, ...]:
    """Each of `values` once."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return tuple(found)


def _text(name: str, value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} has {value!r:.40}, expected text.")
    return value
