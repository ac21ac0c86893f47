# `make verify` and `make test` need nothing but Python 3.11 or newer; both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# A process for each core; neighbours in a file stay together, for what they share, until one process has nothing left.
# PARALLEL= runs the tests one by one.
PARALLEL ?= -n auto --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help verify test test-all lint check leaderboard page clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' $(MAKEFILE_LIST) | column -t -s:

verify: $(READY)  ## decode every committed file and re-derive its bytes, digests and errors
	@$(BIN)/zoo verify

test: $(READY) lint  ## style, then the tests that need no download
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PARALLEL) $(TESTS)

test-all: $(READY) lint  ## every test, also the slow ones and those that download data
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m ""

lint: $(READY)
	@$(BIN)/ruff check --quiet .

check: $(READY)  ## what must be mended before a pull request; BASE=origin/main compares with that branch
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks check $(if $(BASE),--base "$(BASE)")

leaderboard: $(READY)  ## render leaderboard.md, its figures and the table in README.md from the records
	@$(BIN)/python -m benchmarks leaderboard

page: $(READY)  ## write the page of the leaderboard into site/: open site/index.html
	@$(BIN)/python -m benchmarks page

clean:  ## remove the environment and what tests and builds left; runs/ and artifacts/ stay
	@rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis *.egg-info

# Installed again only when the pinned set or the package's metadata changes.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV) (a minute or two, 1.2 GB)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
