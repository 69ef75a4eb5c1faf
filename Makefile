# Each target installs what it needs into .venv on first use; afterwards it starts at once.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
RESULTS ?= notebooks/results
SECONDS ?= 60

.PHONY: train test test-compat test-faults test-hostile test-oldest numeric fuzz lint audit docs bench report dist clean

# Train a model: ARGS="--data.paths [pairs.jsonl] --out runs/mine", see ARGS=--help.
train: .venv/.train
	$(BIN)/python experiments/train.py $(ARGS)

# The whole suite; ARGS="tests/data -k split" picks tests.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

# The exported folder in other versions and libraries; the first run fills .venv-compat (some GB).
test-compat: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/compat -m "compat or not compat" $(ARGS)

# Kills, full disks, damaged files: ARGS="--kills 5 --seed 1", see python -m tests.faults --help.
test-faults: .venv/.dev
	$(BIN)/python -m tests.faults $(ARGS)

# Files made to exhaust memory or time.
test-hostile: .venv/.dev
	$(BIN)/python -m tests.faults.hostile $(ARGS)

# The numeric tests under several BLAS kernels, thread counts and instruction sets.
numeric: .venv/.dev
	$(BIN)/python -m tests.numeric $(ARGS)

# Every reader on hostile bytes, where atheris (Linux wheels) is installed.
fuzz: .venv/.dev
	$(BIN)/python -m tests.faults.fuzz --seconds $(SECONDS)

# The suite with the lowest versions that pyproject.toml allows, in an environment of its own.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet uv
	.venv-oldest/bin/uv pip compile --quiet --python .venv-oldest/bin/python pyproject.toml \
		--resolution lowest-direct --only-binary :all: --extra dev --output-file .venv-oldest/versions.txt
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python -r .venv-oldest/versions.txt
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --no-deps --editable .
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest $(ARGS)

# Style, types (strict), and which package may import which.
lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Known weaknesses of the code (bandit) and of the packages in .venv (pip-audit asks an index).
audit: .venv/.dev
	$(BIN)/python -m tests.audit

# The documentation, into site/; a broken link or reference is an error.
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Every benchmark as one table: ARGS="--busy" with one core busy, --quick, --paths ... --tokenizer ...
bench: .venv/.dev
	$(BIN)/python -m experiments.benchmarks --json runs/bench.json $(ARGS)

# A page about a sweep, runs/report.html: RESULTS=runs/norms for your own.
report: .venv/.train
	$(BIN)/sse report $(RESULTS) --out runs/report.html

# The wheel and the sdist, into dist/, checked for the package index; docs/release.md goes on.
dist: .venv/.dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

.venv/.%: pyproject.toml
	@echo "Installing into .venv (first use; a few minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[$*,fast,onnx,serve,documents]"
	@touch $@

# Remove environments, caches and what was built.
clean:
	rm -rf .venv .venv-oldest .venv-compat build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
