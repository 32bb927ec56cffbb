"""Versions of the packages that decide what a file looks like, without importing them."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "vit-export",
    "tensorflow",
    "keras",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "numpy",
)


def versions(*packages: str) -> dict[str, str]:
    """Installed version of each of `packages` (default: all that matter to an export)."""
    found = {}
    for package in packages or PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def own_version() -> str:
    """The version of this package: as it was installed, or as the pyproject.toml beside a folder of it says."""
    installed = versions("vit-export")["vit-export"]
    if installed != "not installed":
        return installed
    try:
        with open(Path(__file__).parents[2] / "pyproject.toml", "rb") as file:
            return str(tomllib.load(file)["project"]["version"])
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError):
        return "unknown"
