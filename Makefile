# Each target makes .venv and installs on first use; afterwards it starts at once.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
ARGS ?=
ENCODING ?=
TRAINING ?=

.PHONY: train test test-faults test-oldest fuzz lint bench report clean

train: $(STAMP)
	$(BIN)/python experiments/train.py $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

# Kills, full disks, damaged files: ARGS="--kills 5 --seed 1", see python -m tests.faults --help.
test-faults: $(STAMP)
	$(BIN)/python -m tests.faults $(ARGS)

# Every reader on hostile bytes, where atheris (Linux wheels) is installed.
SECONDS ?= 60
fuzz: $(STAMP)
	$(BIN)/python -m tests.faults.fuzz --seconds $(SECONDS)

# The suite with the lowest versions that pyproject.toml allows, in an environment of its own.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet uv
	.venv-oldest/bin/uv pip compile --quiet pyproject.toml --resolution lowest-direct --only-binary :all: \
		--extra dev --extra fast --extra onnx --extra search --output-file .venv-oldest/versions.txt
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python -r .venv-oldest/versions.txt
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --no-deps --editable .
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(STAMP)
	$(BIN)/python -m experiments.benchmarks.kernels $(ARGS)
	$(BIN)/python -m experiments.benchmarks.encoding $(ENCODING)
	$(if $(TRAINING),$(BIN)/python -m experiments.benchmarks.training $(TRAINING))

# ARGS="--results runs/norms": of your own sweep
report: $(STAMP)
	$(BIN)/python experiments/report.py $(ARGS)

$(STAMP): pyproject.toml
	@echo "Setting up .venv (first use; a few minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev,fast,onnx,search]"
	@touch $@

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
