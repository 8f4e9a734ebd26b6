# Two commands from nothing: `make study` runs the main job, `make test` checks everything.
# Both set up .venv first, from constraints.txt. pip would compile all packages one after another:
# Python compiles what it imports, and `make test` the rest while mypy uses the other core.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
COMPILE := $(BIN)/python -m compileall -qq -x '/tests?/' $(VENV)/lib nsopt
INSTALLED := $(VENV)/.installed
FOR_TESTS := $(VENV)/.installed-for-tests

.PHONY: study test networks coverage docs format clean

study: $(INSTALLED)
	$(BIN)/python -m nsopt.study --preset tiny --methods uniform,morphnet,neuralscale --workers 2

test: $(FOR_TESTS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(COMPILE) & $(BIN)/mypy && wait
	$(BIN)/python tests/docs/code.py build/code
	MYPYPATH=docs/figures $(BIN)/mypy build/code
	$(BIN)/python -m pytest

# Tests of YOLO, Hugging Face and Lightning are skipped without their packages, best in an environment of its own:
# make networks VENV=.venv-networks after .venv-networks/bin/pip install onnx2torch ultralytics transformers accelerate lightning
networks: $(FOR_TESTS)
	$(BIN)/python -m pytest -m networks

coverage: $(FOR_TESTS)
	$(BIN)/coverage run -m pytest --numprocesses=0
	$(BIN)/coverage html --directory build/coverage
	$(BIN)/coverage report

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
