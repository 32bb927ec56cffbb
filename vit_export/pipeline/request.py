"""What an export is asked for, checked before anything is built, and what a verification is asked for."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vit_export.base.errors import InputError, nearest
from vit_export.int8.budget import Budget
from vit_export.model.artifact import FileOptions, Format, InputKind, Layout, Precision
from vit_export.model.names import DYNAMIC, FORMATS, PRECISIONS, SEARCHED
from vit_export.model.outputs import RETURNS
from vit_export.model.spec import ViTSpec, require_name
from vit_export.runtimes.gpu.precision import GpuPrecision

if TYPE_CHECKING:
    from vit_export.model.preprocessing import Preprocessing
    from vit_export.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class ExportRequest:
    """Everything a user can ask of one export; construction checks types and names, `plan_files` the numbers.

    `weights` is a checkpoint, or where one is (see `weights.open.open_checkpoint`); None means random weights.
    `spec` is the model to export, None for the checkpoint's own; with weights it may differ from theirs in image size
    and classifier. `returns` are the outputs of that model (`model.outputs.RETURNS`), none for the usual one, which
    with `l2_normalize` are divided by their length where they are embeddings. `preprocessing` and `labels` replace the
    checkpoint's. `input` is what the files take as an image (see `input_kinds.KINDS`). `batch` is static; "dynamic"
    and the `layout` "NCHW" are for .onnx files, TFLite stays at one image in NHWC. `hf_layout` asks for a folder that
    optimum and transformers.js load (`pipeline.hub_folder`); its .onnx files are both. `output` is the folder the files
    go to; `calibration` a folder of images, or None for the default photographs, of which `held_out_images` verify
    (None: as many as are quick to run). `formats` may be empty: the SavedModel is always written. `min_sqnr` (dB of the
    outputs) and `min_agreement` (share of images with the same top class) are the budget of the int8 scheme `auto`.
    `trained` says whether the weights were learnt, None for what they say themselves. Files are called by `name`; None
    is the name of `spec` where there is one, else the checkpoint's own. `verify_on` names places where files are
    verified besides this machine's CPU (`runtimes.places`).

    Raises:
        InputError: on construction, when a value has another type, a format or precision does not exist, or a budget
            cannot be kept by anything.
    """

    spec: ViTSpec | None
    output: Path
    formats: tuple[Format, ...] = tuple(FORMATS)
    precisions: tuple[Precision, ...] = ("float32",)
    int8_scheme: str | None = None
    min_sqnr: float | None = None
    min_agreement: float | None = None
    weights: "str | Path | Checkpoint | None" = None
    preprocessing: "Preprocessing | None" = None
    labels: tuple[str, ...] | None = None
    input: InputKind = "normalized"
    calibration: Path | None = None
    calibration_images: int = 128
    held_out_images: int | None = None
    batch: int | Literal["dynamic"] = 1
    layout: Layout = "NHWC"
    hf_layout: bool = False
    threads: int = 1
    seed: int = 0
    opset: int | None = None
    verify: bool = True
    overwrite: bool = False
    trained: bool | None = None
    returns: tuple[str, ...] = ()
    l2_normalize: bool = False
    name: str | None = None
    verify_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        replaced: dict[str, object] = {
            "output": path_of("output", self.output),
            "returns": chosen("returns", self.returns, tuple(RETURNS)),
            "formats": chosen("formats", self.formats, tuple(FORMATS)),
            "precisions": chosen("precisions", self.precisions, tuple(PRECISIONS)),
            "verify_on": listed("verify_on", self.verify_on, "a list of places"),
        }
        if not replaced["precisions"]:
            raise InputError(f"precisions is empty, expected some of {', '.join(PRECISIONS)}.")
        if self.calibration is not None:
            replaced["calibration"] = path_of("calibration", self.calibration)
        if self.labels is not None:
            replaced["labels"] = listed("labels", self.labels, "a list with the name of each class")
        for name, value in replaced.items():
            object.__setattr__(self, name, value)
        if self.name is not None:
            require_name("name", self.name)
        flags = ("verify", "overwrite", "l2_normalize", "hf_layout")
        for name in (*flags, *(("trained",) if self.trained is not None else ())):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}, expected True or False.")
        self._check_what_is_for_onnx()
        if self.spec is not None and not isinstance(self.spec, ViTSpec):
            raise InputError(f"spec is of type {type(self.spec).__name__}, expected a ViTSpec: see ViTSpec.of.")
        if self.preprocessing is not None:
            from vit_export.model.preprocessing import Preprocessing

            if not isinstance(self.preprocessing, Preprocessing):
                given = type(self.preprocessing).__name__
                raise InputError(f"preprocessing is of type {given}, expected a Preprocessing.")
        if self.budget is not None and self.spec is not None:
            self.budget.check(self.spec)

    def _check_what_is_for_onnx(self) -> None:
        if self.layout not in get_args(Layout):
            raise InputError(f"layout is {self.layout!r:.40}, expected {' or '.join(get_args(Layout))}.")
        if self.hf_layout and self.batch not in (1, DYNAMIC):
            raise InputError(f"batch is {self.batch!r:.40}, and the files of hf_layout take any number: leave it out.")
        for asked, what in (
            (self.layout == "NCHW", "The layout NCHW"),
            (self.batch == DYNAMIC, "A dynamic batch"),
            (self.hf_layout, "The folder of --hf-layout"),
        ):
            if asked and "onnx" not in self.formats:
                raise InputError(f"{what} is for ONNX, TFLite files have none: export ONNX too, or leave it out.")

    @property
    def budget(self) -> Budget | None:
        """What the int8 scheme `auto` has to keep; None for its default, and for every other scheme.

        Raises:
            InputError: a value that nothing can be measured against, or a budget without the scheme.
        """
        asked = {"min_sqnr": self.min_sqnr, "min_agreement": self.min_agreement}
        if self.int8_scheme != SEARCHED:
            if given := [name for name, value in asked.items() if value is not None]:
                raise InputError(
                    f"{given[0]} is the budget of the int8 scheme '{SEARCHED}': ask for that, or leave it out."
                )
            return None
        return None if set(asked.values()) == {None} else Budget(**asked)

    @property
    def file_options(self) -> FileOptions:
        """What all files have in common."""
        batch = 1 if self.batch == DYNAMIC else int(self.batch)
        if self.hf_layout:
            return FileOptions(batch, self.input, "NCHW", True, True, self.opset)
        return FileOptions(batch, self.input, self.layout, self.batch == DYNAMIC, opset=self.opset)


@dataclass(frozen=True)
class VerifyRequest:
    """What to verify against what, on which images.

    `reference` is a SavedModel, any checkpoint or a float32 file of this package, None for the `saved_model/` beside
    the files; `data` a folder of images, None for the photographs that scikit-image ships. `labelled` takes the folder
    of each image for its class; `labels` are the names of the classes where the reference does not know them.
    `precision`, `scheme` and `input` say of files of other tools what ours say themselves, `output_name` which output
    to compare where a file has several. `images` is how many (None: as many as are quick to run). `on` names the places
    where files run (`runtimes.places`), the CPU where there is none; `gpu_precision` is the arithmetic of a GPU, None
    for 16 bits, a phone's.
    """

    files: tuple[str | Path, ...]
    reference: str | Path | None = None
    data: Path | None = None
    labelled: bool = False
    labels: tuple[str, ...] | None = None
    precision: Precision | None = None
    scheme: str | None = None
    input: InputKind | None = None
    output_name: str | None = None
    probabilities: bool = False
    images: int | None = None
    threads: int = 1
    seed: int = 0
    latency: bool = True
    locate: bool = False
    on: tuple[str, ...] = ()
    gpu_precision: GpuPrecision | None = None


def path_of(name: str, value: object) -> Path:
    """`value`, called `name`, as a path; InputError where it can be none."""
    if isinstance(value, str | Path) and str(value):
        try:
            if b"\0" not in os.fsencode(value):
                return Path(value)
        except UnicodeEncodeError:
            pass
    raise InputError(f"{name} is {value!r}, expected the path of a folder.")


def listed(name: str, values: object, expected: str) -> tuple[Any, ...]:
    """`values` as a tuple; text, which Python would take apart into letters, is no list."""
    if isinstance(values, str | bytes | Path) or not isinstance(values, Iterable):
        hint = f": give [{values!r}]" if isinstance(values, str) else ""
        raise InputError(f"{name} is {values!r}, expected {expected}{hint}.")
    return tuple(values)


def chosen(name: str, values: object, known: tuple[str, ...]) -> tuple[Any, ...]:
    """`values` as a tuple of some of `known`, each once."""
    found = listed(name, values, f"a list of some of {', '.join(known)}")
    for value in found:
        if value not in known:
            guess = nearest(value, known) if isinstance(value, str) else None
            hint = f"did you mean {guess!r}?" if guess else f"choose from {', '.join(known)}."
            raise InputError(f"Unknown entry {value!r} in {name}: {hint}")
        if found.count(value) > 1:
            raise InputError(f"{name} has {value!r} twice: give each once.")
    return found
