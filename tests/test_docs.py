"""What the documents tell people to type: commands that exist, files that exports make, links that lead somewhere."""

import re
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pytest

from vit_export.cli.framework import EXPORT
from vit_export.cli.main import main
from vit_export.model.names import FORMATS, INT8_SCHEMES, SCHEMES
from vit_export.model.variants import VARIANTS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted({ROOT / "README.md", *ROOT.glob("docs/**/*.md")})
IDS = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_TYPED = re.compile(r"(?:\$ )?(?:\S*/)?vit-export (?P<rest>.+)")
_MADE = re.compile(r"exports/(?P<model>[a-z0-9_]+)-\d+/(?P<file>[a-z0-9_]+)\.(?P<format>tflite|onnx)\b")


def blocks(text):
    """The code of a page: what is fenced, what is indented by four spaces, what stands between backticks in a line."""
    for match in _FENCE.finditer(text):
        yield match[3]
    prose = _FENCE.sub("", text)
    yield from re.findall(r"(?:^ {4}.*\n?)+", prose, re.MULTILINE)
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose) if "…" not in code)


def recorded(page):
    """Each `vit-export …` that a page recorded in a terminal (```console), as words, and whether it was refused."""
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if match[2] == "console":
            command, _, said = match[3].partition("\n")
            if typed := _TYPED.fullmatch(command):
                yield shlex.split(typed["rest"]), "\nError: " in f"\n{said}" and "Usage: vit-export" in said


def commands(page):
    """Each `vit-export …` of a page as words, comments cut off and lines that end in a backslash joined.

    Of what was recorded in a terminal, which answers are a part of, those that were not refused.
    """
    yield from (words for words, refused in recorded(page) if not refused)
    text = _FENCE.sub(lambda match: "" if match[2] == "console" else match[0], page.read_text(encoding="utf-8"))
    for block in blocks(text):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if match := _TYPED.fullmatch(line.strip()):
                yield shlex.split(match["rest"], comments=True)


def parse(words):
    """`words` as the command line reads them, nothing run; a usage error where it refuses them."""
    is_location = re.search(r"[/.:]|^[A-Z]+$", words[0]) is not None  # of a checkpoint, which is not here
    with click.Context(main) as context:
        words = [EXPORT, *words] if words[0].startswith("-") or is_location else words
        name, command, rest = main.resolve_command(context, words)
        command.make_context(name, rest, parent=context).close()


def main_reads(words):
    """`words` as the command line resolves them here, where no checkpoint is; a usage error where it refuses them."""
    with click.Context(main) as context:
        main.resolve_command(context, words)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_is_one(page):
    for words in commands(page):
        try:
            with suppress(
                click.exceptions.Exit, click.MissingParameter
            ):  # --help; a command mentioned without its file
                parse(words)
        except click.UsageError as error:
            pytest.fail(f"vit-export {shlex.join(words)}: {error.format_message()}")


def test_a_wrong_command_would_be_found():
    with pytest.raises(click.UsageError, match="No such option"):
        parse(["vit_s32", "--tflight"])
    assert sum(1 for page in PAGES for _ in commands(page)) > 30


def test_what_was_refused_in_the_first_hour_is_refused_still():
    refused = [words for words, refused in recorded(ROOT / "docs" / "first_hour.md") if refused]
    assert len(refused) >= 2
    for words in refused:
        # A path is taken for a checkpoint by `parse`; what was refused of one is that it was not there.
        look = parse if words[0].endswith(".keras") else main_reads
        with pytest.raises(click.UsageError):
            look(words)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_in_exports_have_the_names_that_exports_give(page):
    text = page.read_text(encoding="utf-8")
    named = {*VARIANTS, *re.findall(r"\b([a-z0-9_]+)\.keras\b", text), *re.findall(r"--name ([a-z0-9_]+)", text)}
    for match in _MADE.finditer(text):
        assert match["model"] in named, match[0]
        forms = {"float32", "float16", "int8", *(f"int8_{scheme}" for scheme in INT8_SCHEMES[match["format"]])}
        assert match["file"].removeprefix(f"{match['model']}_") in forms, match[0]


@pytest.mark.parametrize("row", SCHEMES, ids=lambda row: f"{row.format}-{row.name}")
def test_every_scheme_is_in_the_tables_of_schemes(row):
    default = " (default)" if INT8_SCHEMES[row.format][0] == row.name else ""
    text = (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")
    assert f"| {FORMATS[row.format].title} `{row.name}`{default} |" in text.partition("\n## ")[0]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_tests_benchmarks_and_targets_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\b((?:tests|benchmarks)/[\w./]+\.(?:py|csv|json))\b", text):
        assert (ROOT / name).exists(), name
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for name in re.findall(r"`make ([a-z0-9-]+)`", text):
        assert name in targets, name
