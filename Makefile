# Every target makes the virtual environment that it needs; PYTHON chooses the interpreter.
PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

.PHONY: install quickstart test check docs format clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps ultralytics openvino-model-api # not torchvision, not a second OpenCV
	touch $@

quickstart: $(READY)
	$(BIN)/detq quickstart

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py

docs: $(READY)
	$(BIN)/python tools/docs_site.py build/docs

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
