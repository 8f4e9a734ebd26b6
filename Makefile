# Two commands from nothing: `make study` runs the main job, `make test` checks everything.
# Both set up .venv first, from constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
INSTALLED := $(VENV)/.installed
FOR_TESTS := $(VENV)/.installed-for-tests

.PHONY: study test networks docs format clean

study: $(INSTALLED)
	$(BIN)/python -m nsopt.study --preset tiny --methods uniform,morphnet,neuralscale --workers 2

test: $(FOR_TESTS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

networks: $(FOR_TESTS)
	$(BIN)/python -m pytest -m networks

docs: $(FOR_TESTS)
	$(BIN)/mkdocs build --strict

format: $(FOR_TESTS)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dashboard]'
	touch $@

$(FOR_TESTS): $(INSTALLED)
	$(PIP) --editable '.[dev]'
	touch $@
