# Needs python3 >= 3.11 with venv, and make. The environment is .venv.
PYTHON ?= python3
TARGET_MS ?= 50
BIN := .venv/bin

.PHONY: search test check figures

search: .venv/ready
	$(BIN)/mbv3-search --target-ms $(TARGET_MS)

test: .venv/dev
	$(BIN)/python -m pytest

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/dev: .venv/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
