"""Options that several commands have, each written once: name, type and help are the same wherever they occur."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from click.shell_completion import CompletionItem

from vit_export.cli.framework import Given, GivenPath
from vit_export.model.artifact import Layout
from vit_export.model.names import DYNAMIC, INPUTS, SCHEME_NAMES
from vit_export.model.spec import ImageSize
from vit_export.runtimes.gpu.precision import GPU_PRECISIONS

Option = Callable[[Any], Any]
"""What puts an option or argument on the function of a command."""


class _Location(Given):
    """A path or an address; shells complete it as a path."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Any file, as the shell knows them."""
        return [CompletionItem(incomplete, type="file")]


TEXT, LOCATION, PATH = Given(), _Location(), GivenPath(path_type=Path)


def flag(name: str, help: str, *names: str) -> Option:
    """An option without a value; `names` are further ones, the last of them the parameter's."""
    return click.option(name, *names, is_flag=True, help=help)


def count(name: str, help: str | None = None, default: int | None = None) -> Option:
    """A whole number; the help shows the `default` where there is one."""
    return click.option(name, type=int, metavar="N", default=default, show_default=default is not None, help=help)


def number(name: str, help: str, metavar: str = "X") -> Option:
    """A number, which need not be whole."""
    return click.option(name, type=float, metavar=metavar, help=help)


def pathname(name: str, help: str, metavar: str = "FILE") -> Option:
    """A path; nothing has to be there."""
    return click.option(name, type=PATH, metavar=metavar, help=help)


def choice(name: str, values: Sequence[str], help: str, default: str | None = None, *names: str) -> Option:
    """One of `values`; `names` as in `flag`."""
    kind = click.Choice(values)
    return click.option(name, *names, type=kind, default=default, show_default=default is not None, help=help)


FILES = click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
AS_JSON = flag("--json", "Print the result as JSON.", "as_json")
QUIET = flag("--quiet", "Print nothing but errors and failures.")
THREADS = count("--threads", "Threads of each runtime.", 1)


def overwrite(what: str) -> Option:
    """--overwrite, of `what` exists already."""
    return flag("--overwrite", f"Replace {what}.")


def seed(of: str) -> Option:
    """--seed, of what is drawn."""
    return count("--seed", f"Of {of}.", 0)


class _ImageSize(click.ParamType):
    """Pixels along one side, or height x width; which sizes there are is for the commands to say."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ImageSize:
        """224 of '224', (224, 384) of '224x384'; a usage error for anything else."""
        if not isinstance(value, str):
            return value
        if not re.fullmatch(r"-?[0-9]{1,9}(x-?[0-9]{1,9})?", value):
            self.fail(f"{value!a:.40} is no size: give pixels (224), or height x width (224x384).", param, ctx)
        height, *width = map(int, value.split("x"))
        return (height, width[0]) if width else height


def image_size(help: str, default: int | None = None, *, several: bool = False) -> Option:
    """--image-size, with what becomes of it; of `several` the parameter is image_sizes."""
    return click.option(
        "--image-size",
        *(["image_sizes"] if several else []),
        multiple=several,
        type=_ImageSize(),
        metavar="SIZE",
        default=default,
        show_default=default is not None,
        help=f"Pixels along one side, or HEIGHTxWIDTH{help}",
    )


class _BatchSize(click.ParamType):
    name = "batch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == DYNAMIC else click.INT.convert(value, param, ctx)


def batch_size() -> Option:
    """--batch: a number, or the word for any."""
    text = f"Static batch of the files; '{DYNAMIC}' for any number of images at a time (ONNX)."
    return click.option("--batch", type=_BatchSize(), metavar=f"N|{DYNAMIC}", default=1, show_default=True, help=text)


def layout() -> Option:
    """--layout: where the colours are in what an .onnx file takes."""
    kinds = get_args(Layout)
    text = "Of the input of .onnx files: NCHW is called pixel_values, as in optimum and transformers.js."
    return click.option(
        "--layout",
        type=click.Choice(kinds, case_sensitive=False),
        default=kinds[0],
        show_default=True,
        help=text,
    )


def images(name: str, use: str) -> Option:
    """A folder of images: what they are for, and those that are taken without it."""
    return pathname(name, f"Folder of images{use}", "DIR")


def reference(help: str) -> Option:
    """--reference: the model that files are of."""
    return click.option("--reference", type=LOCATION, metavar="MODEL", help=help)


def input_kind(help: str, default: str | None = None) -> Option:
    """--input: the pixel values that files take."""
    return choice("--input", INPUTS, f"Pixel values {help}", default)


def places(name: str, help: str) -> Option:
    """Where files are run: this machine's CPU, LiteRT's GPU (in software where there is none), an emulated arm64."""
    return click.option(name, type=click.Choice(("cpu", "gpu", "arm64")), multiple=True, help=help)


GPU_PRECISION = choice("--gpu-precision", GPU_PRECISIONS, "Arithmetic of the GPU.  [float16, as on phones]")


def int8_scheme(help: str, *names: str, several: bool = False) -> Option:
    """--int8-scheme: one of the vocabulary's; of `several` the parameter is int8_schemes."""
    if several:
        return click.option("--int8-scheme", "int8_schemes", type=click.Choice(SCHEME_NAMES), multiple=True, help=help)
    return choice("--int8-scheme", SCHEME_NAMES, help, None, *names)
