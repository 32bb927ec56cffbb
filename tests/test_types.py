"""What type checkers, editors and `help` see of the package: the names, their types, and the snippets of the docs."""

import ast
import inspect
import json
import os
import pydoc
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import vit_export
from vit_export import api

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vit_export"
PAGES = [ROOT / "README.md", ROOT / "docs" / "python.md"]
SHELL = re.compile(r"(?:\$ )?(?:make|vit-export|pip|python|docker) ")

# What the snippets take for granted.
ASSUMED = """
import keras
import numpy as np
import vit_export

images = np.zeros((8, 224, 224, 3), np.float32)
train = validation = (images, np.zeros(8))
names = [f"class {index}" for index in range(10)]
"""

CALLS = {
    # a call, and what a checker says of it: nothing, or a word of it
    "create_vit_b16(image_size=(224, 384), num_classes=10, dropout=0.1)": "",
    "create_vit(weights='vit.safetensors')": "",
    "create_vit_b16(imagesize=224)": "imagesize",
    "create_vit_b16('vit_b16')": "image_size|int|tuple",
    "export('vit_s32', 'out/', formats=['onnx'], batch='dynamic', overwrite=True)": "",
    "export('vit_s32', 'out/', formats=['onxx'])": "onxx|Literal",
    "export('vit_s32', 'out/', overwite=True)": "overwite",
    "export('vit_s32', 'out/').passed.real": "",
    "export('vit_s32', 'out/').pased": "pased",
    "verify('saved_model', [], 3)": "Pictures",
    "ViTSpec.of('vit_s32').num_parameters + 1": "",
    "list_variants()[0].upper()": "",
    "list_variants().upper()": "upper",
    "__version__.split('.')": "",
}


def snippets(page):
    """The Python of a page: every indented block but those for a shell."""
    text = page.read_text(encoding="utf-8")
    assert "```" not in text
    for block in re.findall(r"(?:^ {4}.*\n(?:^\n(?= {4}))?)+", text, re.MULTILINE):
        code = textwrap.dedent(block)
        if not all(SHELL.match(line) or line.startswith((" ", "#")) for line in code.splitlines() if line):
            yield code


def program(page):
    """The snippets of a page as one program, each in a function: later ones see the names of earlier ones."""
    return ASSUMED + "\n".join(snippets(page))


def written(folder):
    """The snippets of every page, and the calls, each a line, as programs in `folder`."""
    for page in PAGES:
        (folder / f"{page.stem}.py").write_text(program(page), encoding="utf-8")
    lines = ["import vit_export", *(f"vit_export.{call}" for call in CALLS)]
    (folder / "calls.py").write_text("\n".join(lines), encoding="utf-8")


def run(folder, *command):
    """What a checker prints of the programs in `folder`."""
    known = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=600, env=known, check=False
    ).stdout


def judge(said):
    """`said` are (file, line, message): nothing of the snippets, and of the calls what is to be said."""
    assert [one for one in said if one[0] != "calls.py"] == []
    for number, (call, word) in enumerate(CALLS.items(), 2):
        about = "\n".join(message for name, line, message in said if line == number)
        assert bool(about) == bool(word), (call, said)
        assert re.search(word, about), (call, about)


def test_the_stub_has_the_names_that_the_package_has():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    found = {alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert found == vit_export._HOMES
    assert set(vit_export.__all__) | {"__version__"} <= set(dir(vit_export))
    for node in tree.body:
        assert all(alias.asname == alias.name for alias in getattr(node, "names", ())), "names go out by an alias"


def test_factories_show_their_arguments():
    whole = inspect.signature(vit_export.create_vit)
    for variant in vit_export.VARIANTS:
        factory = getattr(api, f"create_{variant}")
        assert list(inspect.signature(factory).parameters) == list(whole.parameters)[1:]
        page = pydoc.plain(pydoc.render_doc(factory))
        assert f"create_{variant}(image_size: " in page
        assert f"Build {variant}" in page
        assert "num_classes: " in page
    assert all(f"{name}:" in vit_export.create_vit.__doc__ for name in whole.parameters)


def test_export_has_every_field_of_a_request():
    parameters = inspect.signature(vit_export.export).parameters
    for field in fields(vit_export.ExportRequest):
        if field.name not in ("spec", "weights", "output", "formats"):
            assert parameters[field.name].default == field.default
    assert all(f" {name}: " in vit_export.export.__doc__ for name in parameters)


def test_the_package_is_described_and_typed():
    page = vit_export.__doc__
    assert all(name in page for name in ("create_vit(", "export(", "list_variants()", "verify_files", "InputError"))
    assert max(map(len, page.splitlines())) <= 120
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (PACKAGE / "py.typed").exists()
    assert {"py.typed", "*.pyi"} <= set(settings["tool"]["setuptools"]["package-data"]["vit_export"])
    assert settings["project"]["license"] == "Apache-2.0"
    assert settings["project"]["license-files"] == ["LICENSE"]
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_version_is_known_without_an_installation(monkeypatch, tmp_path):
    from vit_export.base import versions

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert re.fullmatch(r"\d+\.\d+.*", vit_export.__version__)
    monkeypatch.setattr(versions, "versions", lambda name: {name: "not installed"})
    assert vit_export.__version__ == project["version"]
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "a" / "b" / "versions.py"))
    assert vit_export.__version__ == "unknown"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_are_python(page):
    found = list(snippets(page))
    assert found
    for code in found:
        ast.parse(code)


@pytest.mark.thorough
def test_mypy_knows_the_types_and_accepts_the_snippets(tmp_path):
    written(tmp_path)
    options = ("--config-file=", "--python-version=3.11", "--check-untyped-defs", "--follow-imports=silent")
    options += ("--ignore-missing-imports", "--allow-redefinition", "--no-error-summary", "--no-pretty")
    found = run(tmp_path, sys.executable, "-m", "mypy", *options, ".")
    lines = [re.fullmatch(r"([^:]+):(\d+): (?:error|note): (.*)", line) for line in found.splitlines()]
    assert all(lines), found
    judge([(line[1], int(line[2]), line[3]) for line in lines])


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("basedpyright") is None, reason="basedpyright is not installed")
def test_pyright_knows_the_types_and_accepts_the_snippets(tmp_path):
    written(tmp_path)
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT)], "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    found = json.loads(run(tmp_path, "basedpyright", "--pythonpath", sys.executable, "--outputjson"))
    errors = [one for one in found["generalDiagnostics"] if one["severity"] == "error"]
    judge([(Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"]) for one in errors])
