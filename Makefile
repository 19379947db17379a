# make serve         serve the bundled model on port 8000 (settings: NEXTTOKEN_* variables, or ARGS="--port 9000")
# make install       install and compile what serving needs, which all others do by themselves
# make test          run the tests (ARGS="tests/bench -k load"); make test-slow those that take long
# make test-clients  run other people's clients against a live server
# make bench         measure speed beside other servers (docs/benchmarks.md)
# make lint          ruff, mypy and import-linter; make format writes what ruff can
# make clean         remove all that was installed, compiled or written by tools
#
# Everything is installed into .venv on first use; needs Python 3.11 or newer, make and git, and g++ or clang++ for the
# CPU kernels.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS ?=
CODE := server model tests benchmarks

.PHONY: help install serve test test-slow test-clients lint format bench clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

install: $(VENV)/.kernels

serve: $(VENV)/.kernels
	@exec $(BIN)/nexttoken serve $(ARGS)

test: $(VENV)/.dev $(VENV)/.kernels
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(ARGS)

test-slow: $(VENV)/.dev $(VENV)/.kernels
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow $(ARGS)

test-clients: $(VENV)/.dev
	$(BIN)/python -m tests.clients.run $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(VENV)/.dev $(VENV)/.kernels
	$(BIN)/python benchmarks/peers.py $(ARGS)

clean:
	rm -rf $(VENV) model/kernels/cpu/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "nexttoken needs Python 3.11 or newer; set PYTHON=python3.12, for example"; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing nexttoken (once; some minutes on a slow line)"
	@$(PIP) --editable .
	@touch $@

# Compiled anew when its sources change; without a compiler one line says that torch computes instead.
$(VENV)/.kernels: $(VENV)/.runtime $(wildcard model/kernels/cpu/*.cpp model/kernels/cpu/*.h) model/kernels/cpu/build.py
	@$(BIN)/python -m model.kernels.cpu.build
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "installing what tests and lint need (once)"
	@$(PIP) --editable '.[dev]'
	@touch $@
