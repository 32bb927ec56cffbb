"""Defaults of a folder: said, won against by what is typed, and refused by name where they are none."""

import pytest
from click.testing import CliRunner

from vit_export.cli.framework import typed
from vit_export.cli.main import main


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """The request of an export in an empty folder, and the command that a report would name."""
    found = []

    def kept(request, reporter, *, commands):
        found.append((request, typed()))
        raise SystemExit

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vit_export.pipeline.steps.export", kept)
    return found


def invoke(*words):
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize(
    ("file", "before"), [("vit-export.toml", ""), ("pyproject.toml", "[project]\nname = 'x'\n[tool.")]
)
@pytest.mark.parametrize("words", [("vit_s32",), ("export", "vit_s32")])
def test_they_hold_where_nothing_else_is_typed(file, before, words, seen, tmp_path):
    table = "[tool.vit-export.export]" if before else "[export]"
    (tmp_path / file).write_text(
        f"{before.removesuffix('[tool.')}{table}\nthreads = 3\ncalibration = 'my photos'\nmin-sqnr = 40.5\n"
        f"{table.replace('export]', 'bench]')}\ntime-limit = 1\n"
    )
    searched = ("--tflite", "--int8", "--int8-scheme", "auto", "--quiet")
    result = invoke(*words, *searched)
    (request, command), line = seen[0], "--min-sqnr 40.5 --calibration 'my photos' --threads 3"
    assert (request.threads, str(request.calibration), request.min_sqnr) == (3, "my photos", 40.5)
    assert result.stderr.splitlines()[0] == f"Defaults of {file}: {line}"
    assert result.stdout == ""
    assert command.endswith("--quiet --min-sqnr=40.5 '--calibration=my photos' --threads=3")
    result = invoke(*words, *searched, "--threads", "2")
    assert (seen[1][0].threads, "--threads" in result.stderr.splitlines()[0]) == (2, False)
    assert seen[1][1].count("--threads") == 1


def test_without_any_nothing_is_said(seen, tmp_path):
    (tmp_path / "pyproject.toml").write_text("not of this package, so it may be [broken")
    assert "Defaults" not in invoke("vit_s32", "--quiet").stderr
    assert "vit_s32" in invoke("list").output
    (tmp_path / "vit-export.toml").write_text("[verify]\nimages = 3\n")
    assert "Defaults" not in invoke("vit_s32", "--quiet").stderr
    assert invoke("list", "--json").stdout.startswith("[")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[exprt]", "vit-export.toml has 'exprt', which is no command: did you mean 'export'?"),
        ("threads = 2", "vit-export.toml has 'threads', which is no command: remove it."),
        (
            "[export]\nthread = 2",
            "has 'thread', which is no option of export that takes a value: did you mean 'threads'?",
        ),
        ("[export]\nint8 = true", "has 'int8', which is no option of export that takes a value"),
        ("[predict]\nimages = 'x'", "has 'images', which is no option of predict that takes a value"),
        ("[export]\nthreads = [2]", "vit-export.toml has [2] as threads, expected text or a number"),
        ("[export]\nlabels = true", "vit-export.toml has True as labels, expected text or a number"),
        ("[export]\nthreads = 'many'", "'many' is not a valid integer. (Defaults of vit-export.toml: --threads many)"),
        ("[export]\nthreads = 0", "Error: --threads is 0, expected a whole number"),
        ("export = 2", "vit-export.toml has 2, expected a table called like a command"),
        ("[export", "The defaults in vit-export.toml cannot be read (Expected ']'"),
        ("x = '\xff'", "The defaults in vit-export.toml cannot be read ("),
    ],
)
def test_what_is_no_default_is_refused_by_name(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit-export.toml").write_bytes(text.encode("latin-1"))
    result = invoke("vit_s32", "--quiet")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["vit-export.toml"]
    assert invoke("--version").exit_code == 0
