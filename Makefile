# fedlora: `make help` lists what there is. Every target sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The torch build to install first. On a machine with a GPU choose the build for it.
TORCH  ?= torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help install demo deploy-demo test slow check docs site bench bench-gpu card format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# Of 20,000 files a run imports 3,700: they are compiled when they are imported first, which saves a minute.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --upgrade-strategy only-if-needed "$(TORCH)"
	$(BIN)/pip install --quiet --no-compile --upgrade-strategy only-if-needed -e ".[dev]"
	touch $@

install: $(VENV)/installed  ## make .venv with everything that development needs

demo: install  ## compare six methods on generated data: a table and a page
	$(BIN)/fedlora compare examples/demo.toml --methods lora-a2,replicate,zeropad,fedsa,local,fedit --out runs/demo

deploy-demo: install  ## three sites behind Flower on this machine, over TLS: two methods, a page each
	$(BIN)/python examples/deploy_demo.py

# One process more than there are cores: a sixth of the time a process waits for others that it started.
WORKERS ?= $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")

test: install  ## linters, types and all quick tests
	$(MAKE) check
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

slow: install  ## the tests that take minutes
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -e ".[docs]"
	$(BIN)/python -m pytest -m slow

check: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the benchmarks train: texts in files and a base. See docs/speed.md.
DATA   ?= data/banking77
BASE   ?= sentence-transformers/all-MiniLM-L6-v2
OUT    ?= benchmarks/results

bench: install  ## time the trainers against Flower and stock PEFT (DATA=folder BASE=model, quiet machine)
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -e ".[bench]"
	$(BIN)/python benchmarks/trainers.py $(DATA) $(BASE) $(OUT)/trainers.json
	$(BIN)/python benchmarks/curves.py $(BASE) $(OUT)/curves.json
	$(BIN)/python benchmarks/memory.py $(OUT)/memory.json

bench-gpu: install  ## the cohort trainer on a GPU against stock PEFT, within 8 minutes
	$(BIN)/python benchmarks/gpu.py $(OUT)/gpu.json cuda

card:  ## on a machine with a GPU, from the source tree alone: the tests for it, then the benchmark (OUT=folder)
	OUT=$(if $(filter command line environment,$(origin OUT)),$(OUT),build/card) PYTHON=$(PYTHON) sh benchmarks/card.sh

docs: install  ## write what the docs take from the code
	$(BIN)/python docs/generate.py

site: install  ## build the documentation site into build/site; warnings are errors
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -e ".[docs]"
	$(BIN)/mkdocs build --strict

format: install  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
