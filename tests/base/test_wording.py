"""Messages name what a caller can give: options where the shell called, arguments where Python did."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import vit_export
from vit_export.base import wording
from vit_export.base.errors import InputError
from vit_export.base.wording import shell_reads, worded
from vit_export.cli.framework import Commands
from vit_export.cli.main import main

PACKAGE = Path(vit_export.__file__).parent


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("give --num-heads (3 is usual).", "give num_heads (3 is usual)."),
        ("give --num-heads 6, or", "give num_heads=6, or"),
        ("(--image-size 64)", "(image_size=64)"),
        ("(--image-size 224x384)", "(image_size=(224, 384))"),
        ("(--image-size HEIGHTxWIDTH)", "(image_size=(height, width))"),
        ("of --mean 0.5,0.5,0.5 --std", "of Preprocessing.mean=(0.5, 0.5, 0.5) Preprocessing.std"),
        ("export with --int8-scheme static or dynamic for", "export with int8_scheme='static' or 'dynamic' for"),
        ("with --input uint8, 0..255 or 0..1: it", "with input='uint8', '0..255' or '0..1': it"),
        ("add --labels imagenet.", "add labels=read_labels('imagenet')."),
        ("--labels-from folders needs: give --data.", "labelled=True needs: give data."),
        ("pass --overwrite to replace it, or --output for", "pass overwrite=True to replace it, or output for"),
        ("use --features, or --num-classes and", "use returns=['features'], or num_classes and"),
        ("There are no --pooled features", "There are no pooled features"),
        ("choose --float16 or --int8.", "choose 'float16' in precisions or 'int8' in precisions."),
        ("with --opset 13 for", "with opset=13 for"),
        # What is a command, a path, a word or another program's option stays.
        ("`vit-export --weights … --saved-model`, and", "`vit-export --weights … --saved-model`, and"),
        ("/tmp/--output/x.npz and --num-headsets", "/tmp/--output/x.npz and --num-headsets"),
        ("pip install --target DIR", "pip install --target DIR"),
    ],
)
def test_options_are_arguments_where_python_called(written, read):
    assert worded(written) == read
    assert worded(read) == read
    assert str(InputError(written)) == read
    with shell_reads():
        assert worded(written) == str(InputError(written)) == written


def test_the_command_line_reads_options_and_python_again_after_it():
    @click.group(cls=Commands)
    def group():
        pass

    @group.command()
    def fail():
        raise InputError("give --num-heads 6.")

    assert CliRunner().invoke(group, ["fail"]).output == "Error: give --num-heads 6.\n"
    assert str(InputError("give --num-heads 6.")) == "give num_heads=6."


def test_every_option_that_a_message_names_is_known():
    """An option in a text of the library is one of the table, or of a command that Python has no call for."""
    commands_alone = {"saved-model", "target", "licence", "ort", "calibration-images", "families", "adb"}
    options = {option.lstrip("-") for command in main.commands.values() for p in command.params for option in p.opts}
    lacking = set()
    for path in PACKAGE.rglob("*.py"):
        if not path.is_relative_to(PACKAGE / "cli") and path.name != "wording.py":
            lacking |= {
                (path.name, name)
                for name in re.findall(r"(?<![\w/.'=\"-])--([a-z0-9][a-z0-9-]*[a-z0-9])", path.read_text("utf-8"))
                if name in options and name not in wording._ARGUMENTS and name not in commands_alone
            }
    assert not lacking


@pytest.mark.parametrize("option", sorted(wording._ARGUMENTS))
def test_every_argument_is_one_that_python_takes(option):
    import inspect
    from dataclasses import fields

    from vit_export import api
    from vit_export.evaluation.evaluate import evaluate
    from vit_export.model.preprocessing import Preprocessing
    from vit_export.pipeline.compare import compare
    from vit_export.pipeline.verify_files import VerifyRequest
    from vit_export.runtimes.on_device import bench_on_device
    from vit_export.sweeps.run import sweep

    known = {"pooled features"}
    for call in (api.create_vit, api.export, compare, evaluate, bench_on_device, sweep):
        known |= {*inspect.signature(call).parameters}
    known |= {field.name for field in fields(VerifyRequest)}
    known |= {f"Preprocessing.{field.name}" for field in fields(Preprocessing)}
    argument = wording._ARGUMENTS[option]
    assert argument.partition("=")[0].rpartition(" in ")[2] in known
