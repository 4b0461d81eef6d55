# fedlora: `make help` lists what there is. Every target sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The torch build to install first. On a machine with a GPU choose the build for it.
TORCH  ?= torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help install demo test slow check docs format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed "$(TORCH)"
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -e ".[dev]"
	touch $@

install: $(VENV)/installed  ## make .venv with everything that development needs

demo: install  ## compare six methods on generated data: a table and a page
	$(BIN)/fedlora compare examples/demo.toml --methods lora-a2,replicate,zeropad,fedsa,local,fedit --out runs/demo

test: install  ## linters, types and all quick tests
	$(MAKE) check
	$(BIN)/python -m pytest

slow: install  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install  ## write what the docs take from the code
	$(BIN)/python docs/generate.py

format: install  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
