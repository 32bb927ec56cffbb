"""Tables in a terminal of any width: no line is wider, and every name of a file stands whole."""

import io
from dataclasses import replace

import pytest
from click.testing import CliRunner
from helpers.reports import latency, verification
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from vit_export.cli.main import main
from vit_export.inspection.table import render as render_inspection
from vit_export.report.bench import render_benchmark
from vit_export.report.columns import Row, print_columns, print_pairs
from vit_export.report.table import render_table
from vit_export.runtimes.benchmark import BenchedFile, Benchmark
from vit_export.runtimes.process import Memory
from vit_export.runtimes.timing.ranking import Rank
from vit_export.verification.metrics import Neighbours

NAMES = (
    "vit_so400m14_float16_dynamic.tflite",
    "vit_l16_int8_w8a16.onnx",
    "siglip-so400m-patch14-384-fine-tuned-on-flowers-of-the-alps_int8.tflite",
    "vit_s32_int8.tflite",
    "dinov2-small-imagenet1k-1-layer_float32.onnx",
)
WIDTHS = (60, 80, 120)


def printed(show, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(console)
    return console.file.getvalue().splitlines()


def fits(lines, width, names=NAMES):
    """Whether each line is as wide as the console at the most, but for a name, and each name stands whole in one."""
    for line in lines:
        assert cell_len(line) <= width or line.strip() in names, line
        assert "…" not in line
    for name in names:
        assert any(name in line for line in lines), name


def long_names(found):
    files = [
        replace(
            file,
            artifact=replace(file.artifact, path=f"/somewhere/{name}"),
            neighbours=Neighbours(5, (0.8, 1.0)),
            location=None,
        )
        for file, name in zip(found.files, NAMES, strict=True)
    ]
    return replace(found, files=tuple(files))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_closing_table(width):
    lines = printed(lambda console: render_table(long_names(verification()), console), width)
    end = next(place for place, line in enumerate(lines) if line.startswith("FAIL  "))
    fits(lines[:end], width)
    text = "\n".join(lines[:end])
    assert text.count("FAIL") == 2
    assert all(figure in text for figure in ("46.0", "24.0", "100.0 %", "90.0 %", "saved_model (reference)"))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_bench(width):
    row = BenchedFile(
        "", "", "tflite", "float16", "dynamic", 888_123_456, None, (224, 224), 1.2345, 0.5432, latency(1234.5, 1999.0),
        Memory(1_312_000_000, 120_000_000, 40_000_000), Rank(10, 12),
    )  # fmt: skip
    failed = replace(row, path="/x/failed", name=NAMES[4], latency=None, rank=None, error="it does not run")
    rows = [replace(row, path=f"/x/{name}", name=name) for name in NAMES[:4]]
    wide = replace(rows[0].latency, batch=8)
    rows[1] = replace(rows[1], latency=wide, format="onnx")
    machine = {"cpu": {"cores": 2, "model": "A processor", "features": ["avx2"]}}
    benchmark = Benchmark((*rows, failed), "/x/" + NAMES[0], "together", None, (), 1, 20.0, 0, machine)
    lines = printed(lambda console: render_benchmark(benchmark, console), width)
    fits(lines, width)
    text = " ".join("\n".join(lines).split())
    assert "TFL TFLite, f16 float16." in text
    assert "failed" in text
    assert text.count("10-12") == 4


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["list", "--image-size", "1024x512"],
        ["list", "--families"],
        ["compare", "--no-measure"],
        ["compare", "--no-measure", "--image-size", "1024x512"],
    ],
)
def test_tables_of_variants_and_families_also_when_piped(command, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    # What a variant is for is a sentence, which the terminal breaks.
    fits([line for line in lines if width >= 80 or not line.startswith("vit_")], width, names=())
    wanted = "Dinov2" if "--families" in command else "vit_ti16"
    assert wanted.lower() in result.output.lower()


@pytest.mark.parametrize("width", WIDTHS)
def test_what_inspect_shows(width):
    nothing = {"inputs": [], "outputs": [], "checks": [], "notes": [], "findings": [], "record": None}
    found = {
        **nothing, "path": NAMES[2], "format": "onnx", "schema": {"opset": 23}, "bytes": 1_000_000, "sha256": None,
        "external_files": [f"{NAMES[2]}.data", f"{NAMES[0]}.data"], "producer": "vit-export", "minimum_runtime": None,
        "tflite_metadata": None, "metadata_props": {}, "weights": {}, "operators": {"MatMul": 12, "Add": 3},
        "delegates": [
            {
                "target": "a delegate with a long name", "error": None, "supported": 1234, "total": 1240,
                "partitions": 12, "macs": 0.99, "basis": "documentation, not run", "refusals": [], "notes": [],
                "source": "a file",
            }
        ],
    }  # fmt: skip
    lines = printed(lambda console: render_inspection(found, console), width)
    whole = [NAMES[2], f"{NAMES[2]}.data,", f"{NAMES[0]}.data"]
    fits(lines, width, names=whole)
    assert "1234 of 1240" in "\n".join(lines)


def test_a_long_name_stands_above_its_figures_and_a_short_one_beside_them():
    rows = [Row("short", ["1.0", Text("good")]), Row("a name that is longer", ["22.0", "bad"])]
    lines = printed(lambda console: print_columns(console, ["file", "MB", "verdict"], rows, left=("verdict",)), 24)
    assert lines == [
        "file    MB verdict",
        "short  1.0 good",
        "a name that is longer",
        "      22.0 bad",
    ]


def test_a_text_is_broken_between_words_alone():
    name = "x" * 29
    lines = printed(lambda console: print_pairs(console, [("one", f"a b {name} c"), ("longer", "")], indent=1), 30)
    assert lines == [" one", " a b", f" {name}", " c", " longer "]
