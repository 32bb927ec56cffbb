"""What shells, limits and names do to the command line: never a traceback, nothing that drives a terminal."""

import json
import os
import resource
import subprocess
import sys

import pytest
from helpers.originals import ORIGINALS

from vit_export.cli import framework

TERMINAL = "\x1b]0;owned\x07\x1b[2J\x1b[31mPASS\u202e[/bold][red]"
COMMAND = [sys.executable, "-m", "vit_export"]


def run(*arguments, environment=None, before=None, **options):
    environment = {**os.environ, **(environment or {})}
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=not options, env=environment, preexec_fn=before, check=False, **options
    )


def onnx_file(path, name=TERMINAL):
    from onnx import helper

    nodes = [helper.make_node("Relu", ["images"], [name]), helper.make_node("Op", [name], ["logits"], domain=name)]
    ends = [helper.make_tensor_value_info(end, 1, [1, 3, 32, 32]) for end in ("images", "logits")]
    graph = helper.make_graph(nodes, name, ends[:1], ends[1:])
    model = helper.make_model(graph, producer_name=name, opset_imports=[helper.make_opsetid("", 17)])
    entry = model.metadata_props.add()
    entry.key, entry.value = name, name
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "2>&- >&- <&-"])
def test_streams_that_are_closed(closed, tmp_path):
    command = f"'{sys.executable}' -m vit_export inspect '{onnx_file(tmp_path / 'a.onnx')}' {closed}"
    assert subprocess.run(command, shell=True, check=False).returncode == 0


def test_a_reader_that_goes_is_no_fault_of_a_file():
    reader, writer = os.pipe()
    os.close(reader)  # one that goes later may find that all was written
    with open(writer, "wb") as output:
        command = [sys.executable, "-m", "vit_export", "list"]
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (framework.NOBODY_READS, b"")


def test_an_encoding_without_letters_spells_them(tmp_path):
    path = onnx_file(tmp_path / "é.onnx", "Größe 🦊")
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    shown = run("inspect", str(path), environment=ascii_only)
    assert shown.returncode == 0
    assert rb"Gr\u00f6\u00dfe \ud83e\udd8a" in shown.stdout
    told = run("inspect", str(path), "--json", environment=ascii_only)
    assert json.loads(told.stdout)["files"][0]["producer"] == "Größe 🦊"


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_names_in_files_do_not_drive_the_terminal(as_json, tmp_path):
    path = onnx_file(tmp_path / f"a{TERMINAL.replace('/', '')}.onnx")
    shown = run("inspect", str(path), *as_json).stdout.decode()
    assert shown.replace("\n", "").isprintable()
    assert "[/bold][red]" in shown  # no markup either
    if as_json:
        assert json.loads(shown)["files"][0]["producer"] == TERMINAL


@pytest.mark.parametrize("arguments", [["inspect", TERMINAL], [TERMINAL], ["inspect", "x", f"--{TERMINAL}"]])
def test_what_was_typed_does_not_drive_the_terminal(arguments):
    refused = run(*arguments)
    assert refused.returncode == 2
    assert refused.stderr.decode().replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        ["https://user:secret@host/x"],
        ["verify", "https://user:secret@host/x.onnx"],
        ["inspect", "https://user:secret@host/x.onnx?sig=secret"],
        ["bundle", "https://user:secret@host/x.onnx"],
        ["--weights", "https://user:secret@[host/x.npz", "--tflite"],
        ["--weights", "s3://user:secret@host/x.npz", "--tflite"],
        ["vit_s32", "--tflite", "--calibration", "https://user:secret@host/x"],
        ["vit_s32", "--tflite", "--labels", "https://user:secret@host/x"],
        ["vit_s32", "--tflite", "--opset", "https://user:secret@host/x"],
    ],
)
def test_passwords_are_not_repeated(arguments, tmp_path):
    refused = run(*arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert refused.returncode == 2
    assert b"secret" not in refused.stdout + refused.stderr


def test_passwords_are_not_recorded(monkeypatch):
    import click

    words = [
        "verify",
        "a.onnx",
        "--reference",
        "https://user:secret@host/x?token=secret",
        "--data=https:/u:secret@host",
    ]
    with click.Context(click.Command("verify"), obj=None) as context:
        context.meta[framework._TYPED] = words
        assert "secret" not in framework.typed()


@pytest.mark.thorough
def test_a_limit_on_the_size_of_files_is_one_sentence(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    weights = str(ORIGINALS / "hf")
    refused = run("--weights", weights, "--onnx", "--no-verify", "--output", str(tmp_path / "o"), before=limit)
    assert refused.returncode == 2
    last = refused.stderr.decode().splitlines()[-1]
    assert last.startswith("Error: ")
    assert last.endswith("raise the limit (ulimit -f).")
    assert not (tmp_path / "o").exists()


def test_files_whose_names_are_not_utf_8(tmp_path):
    from conftest import write_pictures

    from vit_export.images.split import find_images
    from vit_export.model.preprocessing import Preprocessing

    write_pictures(tmp_path, 2, (40, 40))
    os.rename(tmp_path / "00.png", os.fsencode(tmp_path) + b"/\xff\x1b.png")
    pictures, skipped = find_images(tmp_path, Preprocessing(32))
    assert (len(pictures.names), skipped) == (2, ())
    (tmp_path / "models").mkdir()
    onnx_file(tmp_path / "models" / "a.onnx")
    os.rename(tmp_path / "models" / "a.onnx", os.fsencode(tmp_path) + b"/models/\xff.onnx")
    refused = run("inspect", str(tmp_path / "models"))
    assert refused.returncode == 2
    assert rb"\udcff.onnx has a name that is not UTF-8" in refused.stderr
