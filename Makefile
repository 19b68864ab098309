# What there is to do here: `make help`. Needs Python 3.11 or newer, make and a package registry.

PYTHON ?= python3
SEEDS  ?= 1 2 3

BIN    := .venv/bin
PYTEST := $(BIN)/python -m pytest -q

.DEFAULT_GOAL := help
.PHONY: help run test check prove bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: .venv/.ready  ## start a node with sample events (ONCE=1: end by itself; CLUSTER=1: three nodes, two kills)
	@$(BIN)/python -m eventflow.quickstart $(if $(filter 1,$(ONCE)),--once) $(if $(filter 1,$(CLUSTER)),--cluster)

test: .venv/.ready  ## the fast tests (ARGS="-k retry": some of them)
	$(PYTEST) -m 'not slow and not prove' $(ARGS)

check: .venv/.ready  ## format, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

prove: .venv/.ready  ## the long runs, with figures written to docs/proof (SEEDS="4 5": with other chance)
	EVENTFLOW_PROOF=docs/proof EVENTFLOW_SEED=$(firstword $(SEEDS)) $(PYTEST) -m prove $(ARGS)
	for seed in $(SEEDS); do \
	  EVENTFLOW_PROOF=docs/proof EVENTFLOW_SEED=$$seed \
	    $(PYTEST) -m 'slow and not prove' --hypothesis-seed=$$seed $(ARGS) || exit 1; \
	done

bench: .venv/.ready  ## what it does in a second, beside floors (ARGS="a b --rounds 3"; CLUSTER=1: on three servers)
	@$(BIN)/python -m bench $(if $(filter 1,$(CLUSTER)),cluster) $(ARGS)

clean:  ## remove caches and build output (.venv stays)
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv that is there is used and brought up to date, never made anew.
.venv/.ready: pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "EventFlow needs Python 3.11 or newer; $(PYTHON) is not. Name one: make PYTHON=python3.12" >&2; \
	    exit 1; \
	  }; \
	  echo "Making .venv: once, about a minute."; \
	  $(PYTHON) -m venv .venv; \
	}
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,quickstart]'
	@touch $@
