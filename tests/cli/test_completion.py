"""What shells complete: click's own completion, which files in the place of a command must not end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from vit_export.cli.main import main

COMMAND = Path(sys.executable).with_name("vit-export")


def completed(*words):
    """The plain completions of the last of `words`, and whether files are completed."""
    *before, incomplete = words
    found = ShellComplete(main, {}, "vit-export", "_VIT_EXPORT_COMPLETE").get_completions(before, incomplete)
    return [item.value for item in found if item.type == "plain"], any(item.type == "file" for item in found)


@pytest.mark.parametrize(
    ("words", "plain", "files"),
    [
        (("vit_s",), ["vit_s32", "vit_s16"], True),
        (("pre",), ["predict"], True),
        (("./tuned",), [], True),
        (("--tf",), ["--tflite"], False),
        (("--vers",), ["--version"], False),
        (("--hel",), ["--help", "--held-out-images"], False),
        (("vit_s32", "--int8"), ["--int8", "--int8-scheme"], False),
        (("vit_s32", "--int8-scheme", "q"), ["qdq"], False),
        (("--weights", "tun"), [], True),
        (("--tflite", "tun"), [], True),
        (("./tuned.keras", "--on"), ["--onnx"], False),
        (("hf:o/n", "--on"), ["--onnx"], False),
        (("no_such_command", "--on"), ["--onnx"], False),
        (("export", "tun"), [], True),
        (("predict", "mod"), [], True),
        (("predict", "model.tflite", "pho"), [], True),
        (("verify", "--reference", "tun"), [], True),
        (("vit_s32", "--labels", "nam"), [], True),
        (("vit_s32", "--output", "out"), [], True),
        (("bundle", "a.onnx", "--target", "a"), ["android"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_commands_options_values_and_files(words, plain, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned.keras").write_text("")
    assert completed(*words) == (plain, files)


def test_every_option_that_takes_a_path_completes_files():
    with click.Context(main) as context:
        for name, command in main.commands.items():
            for parameter in command.params:
                if parameter.make_metavar(context).strip("[].") in ("FILE", "DIR", "PATH", "MODEL", "IMAGE"):
                    kinds = {item.type for item in parameter.type.shell_complete(context, parameter, "x")}
                    assert kinds & {"file", "dir"}, (name, parameter.name)


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("bash") is None or not COMMAND.exists(), reason="there is no bash, or no command")
def test_bash_completes_as_the_docs_say(tmp_path):
    script = (
        'eval "$(_VIT_EXPORT_COMPLETE=bash_source vit-export)"\ncompopt() { :; }\n'
        "COMP_WORDS=(vit-export vit_s32 --tfl); COMP_CWORD=2; _vit_export_completion vit-export\n"
        'echo "${COMPREPLY[*]}"'
    )
    environment = {**os.environ, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == "--tflite\n"


def test_completing_imports_nothing_heavy(tmp_path):
    code = (
        "import sys\nfrom vit_export.cli.main import main\n"
        "try:\n    main(prog_name='vit-export')\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('tensorflow', 'numpy', 'rich') if m in sys.modules])"
    )
    words = {"COMP_WORDS": "vit-export vit_s32 --tfl", "COMP_CWORD": "2", "_VIT_EXPORT_COMPLETE": "bash_complete"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **words}
    )
    assert run.stdout == "plain,--tflite\n[]\n"
