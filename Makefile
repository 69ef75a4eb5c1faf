# Each target makes .venv and installs on first use; afterwards it starts at once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
ARGS ?=
ENCODING ?=

.PHONY: train test lint bench report clean

train: $(STAMP)
	$(BIN)/python experiments/train.py $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m sse_kernels.bench $(ARGS)
	$(BIN)/python -m sse.bench $(ENCODING)

# ARGS="--results runs/norms": of your own sweep
report: $(STAMP)
	$(BIN)/python experiments/report.py $(ARGS)

$(STAMP): pyproject.toml
	@echo "Setting up .venv (first use; a few minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev,fast,onnx,search]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
