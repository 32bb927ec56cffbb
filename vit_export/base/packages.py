"""A package that is not installed: said in one sentence, where it is missed.

Everything but TensorFlow and what goes with it makes a light installation (docs/install.md); some packages have no
wheel for some machines.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from vit_export.base.errors import InputError

_EXPORTING = ("tensorflow", "keras", "tf2onnx", "ai_edge_quantizer")
"""What a light installation is without: they build, train and convert models, and run SavedModels."""


def require_tensorflow() -> None:
    """Find out before hours of download, and without importing it, whether TensorFlow is there.

    Raises:
        InputError: it is not.
    """
    if find_spec("tensorflow") is None:
        raise _missing("tensorflow")


@contextmanager
def installed() -> Iterator[None]:
    """Turn the import of a package that is not there, in the block, into one sentence.

    Raises:
        InputError: a package of others is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "vit_export"):  # a fault of this package's own
            raise
        raise _missing(package) from error


def _missing(package: str) -> InputError:
    called = "TensorFlow" if package == "tensorflow" else package.replace("_", "-")
    use = ", which exporting, training and SavedModels need" if package in _EXPORTING else ""
    return InputError(f"{called} is not installed here{use}: `pip install vit-export` brings it along.")
