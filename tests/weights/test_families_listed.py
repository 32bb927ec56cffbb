"""The table of families says what the layouts' own tables say, no more and no less."""

import importlib
import json

import pytest
from click.testing import CliRunner

from vit_export.cli.main import main
from vit_export.weights.families import FAMILIES, REFUSED, families
from vit_export.weights.open import SOURCES

LAYOUTS = "vit_export.weights.layouts"


def names_of(layout, rows=FAMILIES):
    return [name for row in rows for name in getattr(row, layout)]


def test_every_layout_is_named():
    others = " ".join(names_of("others")).lower()
    for source in SOURCES:
        assert source.name in others or names_of(source.name)
    assert "keras_hub" in others


def test_the_model_types_of_transformers_are_those_that_are_read():
    known = pytest.importorskip(f"{LAYOUTS}.huggingface_families")
    listed = names_of("huggingface")
    assert sorted(listed) == sorted(name for family in known.FAMILIES for name in family.model_types)


def test_the_model_types_that_are_refused_are_refused_by_name():
    known = pytest.importorskip(f"{LAYOUTS}.refusals")
    assert {*names_of("huggingface", REFUSED)} <= known.TYPES.keys()
    assert not {*names_of("huggingface", REFUSED)} & {*names_of("huggingface")}


def test_the_architectures_of_timm_are_those_that_are_read_and_refused():
    known = pytest.importorskip(f"{LAYOUTS}.timm_config")
    error = importlib.import_module("vit_export.base.errors").InputError
    for name in names_of("timm"):
        known.refuse_others("model", {"architecture": name})
        assert known._function(name) is not None, name
    for name in names_of("timm", REFUSED):
        assert known._function(name) is None, name
        with pytest.raises(error, match=name):
            known.refuse_others("model", {"architecture": name})


def test_one_row_each_and_every_row_has_all():
    for rows in (FAMILIES, REFUSED):
        assert len({row.name for row in rows}) == len(rows)
    assert all(row.huggingface or row.timm for row in (*FAMILIES, *REFUSED))
    assert all(row.name and row.differs and row.returns for row in FAMILIES)
    assert all(row.name and row.why for row in REFUSED)


def test_the_command_prints_the_table_and_json():
    shown = CliRunner().invoke(main, ["list", "--families"])
    assert shown.exit_code == 0
    assert all(len(line) <= 80 for line in shown.output.splitlines())
    words = shown.output.split()
    for row in (*FAMILIES, *REFUSED):
        assert row.name.split()[0] in words
    assert shown.output.count("not taken") == len(REFUSED)
    told = CliRunner().invoke(main, ["list", "--families", "--json"])
    assert json.loads(told.stdout) == families()
