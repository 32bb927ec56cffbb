"""The data file of delegates says what it should: names that exist, conditions that are defined, a source and a day."""

import tomllib
from datetime import date, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import get_args

import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema

from vit_export.inspection.conditions import CONDITIONS
from vit_export.inspection.delegates import RUNTIMES, Basis, installed, targets

TEXT = (resources.files("vit_export") / "data" / "delegates.toml").read_text(encoding="utf-8")
ALWAYS = {"runtime", "name", "basis", "source", "repository", "read", "operators", "advice"}
SOMETIMES = {"every": dict, "notes": list, "folds": bool, "smallest": int, "installed": str}
DTYPES = {"float32", "float16", "int8", "uint8", "int32", "int64", "bool"}


@cache
def known(runtime):
    """The operators and the options of operators that a runtime's format has."""
    if runtime == RUNTIMES["tflite"]:
        options = (made() for name, made in vars(schema).items() if name.endswith("OptionsT"))
        operators = {name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        return operators, {name for option in options for name in vars(option)}
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    standard = onnx.defs.get_all_schemas_with_history()
    others = {f"{op.domain}:{op.name}" for op in get_all_operator_schema() if op.domain}
    return {op.name for op in standard if not op.domain} | others, {name for op in standard for name in op.attributes}


def listed(value, kind):
    return isinstance(value, list) and len(value) > 0 and all(type(entry) is kind for entry in value)


def about_input(what, value):
    """Whether a table may say `what` of an input."""
    of = {"rank": listed(value, int), "dtype": listed(value, str) and set(value) <= DTYPES}
    return of.get(what, what in ("constant", "stored") and value is True)


def is_parameter(name, value, options):
    """Whether `value` is what condition `name` takes."""
    match name:
        case "version" | "max_rank":
            return type(value) is int
        case "changing":
            return listed(value, int)
        case "counts":
            return listed(value, list) and all(listed(pair, int) and len(pair) == 2 for pair in value)
        case "computes_in":
            return listed(value, str) and set(value) <= DTYPES
        case "unset":
            return listed(value, str) and set(value) <= options
        case "equal":
            return set(value) <= options and all(type(number) is int for number in value.values())
        case "inputs":
            return all(
                number.isdigit() and all(about_input(*said) for said in asked.items())
                for number, asked in value.items()
            )
    return isinstance(value, str) and bool(value)  # why the operator is refused


def faults_of_conditions(conditions, options):
    for name, value in conditions.items():
        if name not in CONDITIONS:
            yield f"no condition {name}"
        elif not is_parameter(name, value, options):
            yield f"{name} = {value}"


def faults_of_target(row):
    missing, further = ALWAYS - set(row), set(row) - ALWAYS - set(SOMETIMES)
    if missing or further or row["runtime"] not in RUNTIMES.values():
        yield f"without {missing}, with {further}, runtime {row.get('runtime')}"
        return
    operators, options = known(row["runtime"])
    yield from (f"{key} is empty" for key in ("name", "source", "repository") if not str(row[key]).strip())
    yield from (f"{key} = {row[key]}" for key, kind in SOMETIMES.items() if key in row and type(row[key]) is not kind)
    if row["basis"] not in set(get_args(Basis)) - {"runtime"}:
        yield f"basis {row['basis']}"
    if not isinstance(row["read"], date) or isinstance(row["read"], datetime):
        yield f"read {row['read']}"
    yield from faults_of_conditions(row.get("every", {}), options)
    named = [name for conditions in row["operators"] for name in conditions.get("names", [None])]
    yield from (f"no operator {name}" for name in {*named, *row["advice"]} - operators - {"others"})
    yield from (f"{name} stands twice" for name in set(named) if named.count(name) > 1)
    if "installed" in row and not set(named) <= set(installed(row["installed"])):
        yield f"{row['installed']} lacks an operator"
    for conditions in row["operators"]:
        yield from faults_of_conditions({k: v for k, v in conditions.items() if k != "names"}, options)
    if not row["advice"].get("others") or not all(isinstance(text, str) and text for text in row["advice"].values()):
        yield "advice"


def faults_of(text):
    return [fault for row in tomllib.loads(text)["target"] for fault in faults_of_target(row)]


def test_the_file_is_well_formed():
    assert faults_of(TEXT) == []
    assert [len(targets(format)) for format in RUNTIMES] == [5, 5]
    for format in RUNTIMES:
        assert len({target.name for target in targets(format)}) == len(targets(format))


@pytest.mark.parametrize(
    ("said", "instead", "fault"),
    [
        ('"COS"', '"COSINE"', "no operator COSINE"),
        ('"Asin"', '"Arcsin"', "no operator Arcsin"),
        ('"com.microsoft:Gelu"', '"com.microsoft:Gelus"', "no operator com.microsoft:Gelus"),
        ("advice.CAST", "advice.CASTS", "no operator CASTS"),
        ('"COS", ', '"COS", "COS", ', "COS stands twice"),
        ("counts =", "count =", "no condition count"),
        ("every.max_rank", "every.highest_rank", "no condition highest_rank"),
        ("version = 2", 'version = "2"', "version = 2"),
        ("counts = [[1, 0]]", "counts = [1, 0]", "counts = [1, 0]"),
        ("inputs.0.rank", "inputs.0.ranks", "inputs = {'0': {'ranks': [3, 4]}}"),
        ("stored = true", "stored = false", "inputs = {"),
        ('["weightsFormat"]', '["weightFormat"]', "unset = ['weightFormat']"),
        ("equal.beta", "equal.betas", "equal = {'betas': 1}"),
        ('"bool"]', '"boolean"]', "computes_in = ["),
        ('never = "refused for Core ML 3 and later"', "never = true", "never = True"),
        ('source = "onnxruntime/core/providers/xnnpack/ (math/, nn/)"', 'source = " "', "source is empty"),
        ('repository = "microsoft/onnxruntime"\n', "", "without {'repository'}"),
        ("read = 2026-11-23", 'read = "2026-23-11"', "read 2026-23-11"),
        ("read = 2026-11-23", "read = 2026-11-23T00:00:00", "read 2026-11-23"),
        ('runtime = "LiteRT"', 'runtime = "TFLite"', "runtime TFLite"),
        ("basis = ", "base = ", "with {'base'}"),
        ('basis = "documentation, not run"', 'basis = "hearsay"', "basis hearsay"),
        ('"nnapi_supported_ops.md"', '"nnapi_ops.md"', "nnapi_ops.md lacks an operator"),
        ("advice.others", "advice.ADD", "advice"),
        ("smallest = 2", "smallest = true", "smallest = True"),
    ],
)
def test_a_malformed_file_is_caught(said, instead, fault):
    assert said in TEXT
    assert any(fault in found for found in faults_of(TEXT.replace(said, instead, 1)))


def test_a_day_that_is_none_is_no_toml():
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(TEXT.replace("2026-11-23", "2026-11-31", 1))


def test_the_file_ships_with_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "data/*.toml" in project["tool"]["setuptools"]["package-data"]["vit_export"]
