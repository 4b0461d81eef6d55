# fedlora: `make help` lists what there is. Every target sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The torch build to install first. On a machine with a GPU choose the build for it.
TORCH  ?= torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help install demo test slow check format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed "$(TORCH)"
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -e ".[dev]"
	touch $@

install: $(VENV)/installed  ## make .venv with everything that development needs

demo: install  ## a short federation on generated data
	rm -rf runs/demo
	$(BIN)/fedlora run --out runs/demo --set run.name=demo --set run.rounds=10 --set adapter.rank=4 --set train.lr=2e-3

test: install  ## linters, types and all quick tests
	$(MAKE) check
	$(BIN)/python -m pytest

slow: install  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
