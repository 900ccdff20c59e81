# Everything runs from .venv in the repository. The first target to need it builds it (this takes a while: NeMo and
# PyTorch); after that nothing is installed, or fetched, until pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults lint bench bench-compare bench-decode clean

help: ## Say what the targets do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with all that the demo and the tests need

# The stamp holds what was installed from: a checkout that only touches the two files installs nothing.
$(STAMP): pyproject.toml constraints.txt
	@if ! cat $^ | cmp -s - $@; then \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
			{ echo "streamparity needs Python 3.10 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }; \
		set -ex; \
		$(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install -c constraints.txt -e '.[nemo,onnx,rtx,fast,wer,dev]'; \
		cat $^ > $@; \
	else touch $@; fi

demo: setup ## The whole job on the shipped model and speech, into streamparity-demo/
	$(BIN)/streamparity demo --force

test: lint ## Lint, then run the tests; skipped tests are listed with their reasons
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n auto --dist loadfile

faults: setup ## Plant faults in real exports and loops, print what was found and the score
	$(BIN)/python -m tests.faults

lint: setup ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## What the taps and the runner cost
	$(BIN)/python benchmarks/overhead.py

bench-compare: setup ## How fast two files are compared, beside cmp, Polygraphy, torch.testing and numpy
	$(BIN)/python benchmarks/compare.py

bench-decode: setup ## Decode steps per second, beside NeMo's own greedy loop
	PYTHONPATH=scripts $(BIN)/python benchmarks/decode.py

clean: ## Remove caches, builds and the demo's output; .venv stays
	rm -rf streamparity-demo build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
