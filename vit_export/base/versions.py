"""Versions of the packages that decide what a file looks like, without importing them."""

from importlib.metadata import PackageNotFoundError, version

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
