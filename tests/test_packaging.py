"""What is installed: the lists of packages agree, and a wheel and a source distribution hold what they should."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXPORTING = {"tensorflow", "keras", "tf2onnx", "ai-edge-quantizer"}
NOT_OURS = shutil.ignore_patterns(
    ".git",
    ".venv",
    "build",
    "dist",
    "exports",
    "calibration",
    ".cache",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    "found",
)


def name_of(requirement):
    return re.match(r"[\w-]+", requirement)[0]


def test_the_light_installation_is_the_whole_one_without_what_exports():
    lines = (ROOT / "requirements-light.txt").read_text(encoding="utf-8").splitlines()
    light = {line for line in lines if not line.startswith("#")}
    assert light == {entry for entry in PROJECT["dependencies"] if name_of(entry) not in EXPORTING}


def test_the_lowest_releases_are_those_that_the_ranges_begin_with():
    lines = (ROOT / "requirements-lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    ranges = {name_of(entry): entry for entry in PROJECT["dependencies"] if name_of(entry) in lowest}
    for name, release in lowest.items():
        start = re.search(r">=([\d.]+)", ranges[name])[1]
        assert release in (start, f"{start}.0"), name


def test_every_extra_is_explained():
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert not [extra for extra in PROJECT["optional-dependencies"] if f"| `{extra}` |" not in text]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A source distribution made from a copy of the working tree, and the wheel made from what is in it."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_OURS)
    for name in ("calibration/README.md", "exports/.gitkeep"):
        (folder / "source" / name).parent.mkdir()
        shutil.copy(ROOT / name, folder / "source" / name)
    build = "from setuptools import build_meta; import sys; getattr(build_meta, sys.argv[1])(sys.argv[2])"

    def make(what, source):
        command = [sys.executable, "-c", build, what, str(folder)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)

    make("build_sdist", folder / "source")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    make("build_wheel", unpacked)
    (wheel,) = folder.glob("*.whl")
    return unpacked, wheel


@pytest.mark.thorough
def test_the_wheel_is_the_package_and_nothing_else(built):
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = message_from_string(archive.read(metadata).decode())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "vit_export").rglob("*") if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == {p for p in package if "__pycache__" not in p}
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_all("Classifier")
    links = re.findall(r"\]\(([^)]*)\)", told.get_payload())
    assert not [link for link in links if not link.startswith("https://")], "an index has none of these files"
    assert "# vit-export" in told.get_payload()


@pytest.mark.thorough
def test_the_source_distribution_can_run_its_tests(built):
    unpacked, _ = built
    for name in ("tests", "docs", "benchmarks"):
        files = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.is_file()}
        kept = {path for path in files if not {"__pycache__", "found", ".cache"} & set(path.parts)}
        assert not [str(path) for path in kept if not (unpacked / path).is_file()]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "tests/test_docs.py",
        "tests/artifacts",
    ]
    done = subprocess.run(
        command, cwd=unpacked, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(".") > 50
