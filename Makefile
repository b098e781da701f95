PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help install dev demo test test-all benchmark benchmark-deploy benchmark-c test-oldest lint format docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "stq needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## make .venv and install stq with what training needs

dev: $(VENV)/.dev ## install also what tests, export, reports and sweeps need

demo: $(VENV)/.installed ## train a 3-bit double-stage ST network on real digits: float first, then 3 bits; no network
	$(BIN)/stq-train

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest

test-all: $(VENV)/.dev ## run the tests, the slow ones too
	$(BIN)/python -m pytest -m ''

benchmark: $(VENV)/.dev ## time and memory of a training step beside float
	$(BIN)/stq-benchmark resnet20:64:32 resnet18:64:32 resnet18:16:112 mobilenetv2_100:16:96 resnet50:8:112 --threads 1 \
		--methods lsq,double_st,pact,dorefa,st,torch,brevitas \
		--json experiments/training_speed/benchmark.json --markdown experiments/training_speed/benchmark.md

benchmark-deploy: $(VENV)/.dev ## times of exported networks beside float
	$(BIN)/python experiments/deployment/benchmark.py

benchmark-c: $(VENV)/.dev ## flash, RAM and instructions of exported C on a Cortex-M4 (needs its compiler and QEMU)
	$(BIN)/python experiments/microcontroller/benchmark.py $(if $(CMSIS_NN),--cmsis-nn $(CMSIS_NN))

test-oldest: $(VENV)/.dev ## run exported files in the oldest ONNX Runtime that pyproject.toml declares
	$(BIN)/python tests/deploy/onnx/oldest_runtime.py

lint: $(VENV)/.dev ## check style, and that imports point downwards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev ## fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev ## build the documentation into build/site, links checked; run its notebooks
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=300 docs/notebooks

clean: ## remove the environment and caches, not the runs
	rm -rf $(VENV) .pytest_cache .ruff_cache build
