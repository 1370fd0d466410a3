# A fresh machine needs `make` and Python 3.11, 3.12 or 3.13; everything else goes into .venv.
#
#   make train PYTHON=/path/to/python3.12     another interpreter (asked once, when .venv is made)
#   make train RUNS=runs/mine                 another place for the runs
#   make test PYTEST_ARGS='-k returns'        some of the tests

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
ifndef RUNS
RUNS := runs/$(shell date +%Y%m%d-%H%M%S)
endif
BIN := .venv/bin
INSTALLED := .venv/.installed
# Those whose results the page shows.
BENCHMARKS := throughput peers scaling worker_time returns startup

.DEFAULT_GOAL := help
.PHONY: help train test test-slow test-reliability lint format bench docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: $(INSTALLED)  ## train A2C and A3C on CartPole in a new runs/<time> and plot both
	$(BIN)/jax-a3c train a2c gymnax:CartPole-v1 --run-dir $(RUNS)/a2c-cartpole
	$(BIN)/jax-a3c train a3c gymnax:CartPole-v1 --run-dir $(RUNS)/a3c-cartpole
	$(BIN)/jax-a3c plot $(RUNS)/a2c-cartpole $(RUNS)/a3c-cartpole --output $(RUNS)/learning_curve.png

SLOW := slow
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

test: $(INSTALLED)  ## the tests and doctests, on up to eight processes of 2 GB at most
	$(PYTEST) -m 'not slow' $(PYTEST_ARGS)

test-slow: $(INSTALLED)  ## the tests that take longer, listed in tests/slow.txt
	$(PYTEST) -m '$(SLOW)' $(PYTEST_ARGS)

test-reliability: $(INSTALLED)  ## kill, damage, starve and fuzz it, with full counts; hours
	$(BIN)/python -m pytest tests/reliability --full -v -p no:cacheprovider $(PYTEST_ARGS)

lint: $(INSTALLED)  ## format, lint and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)  ## format, and repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## short forms of the benchmarks, some minutes, and a page of them in runs/bench
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py --short || exit 1; done
	$(BIN)/python benchmarks/report.py --results runs/bench

docs: $(INSTALLED)  ## the manual as a site, in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean:  ## remove .venv, caches and builds; runs/ stays
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv that works is brought up to date, any other is made anew.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(SUPPORTED)' || { \
		echo "jax_a3c needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is none: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[plots,tensorboard,wandb,video,envpool,gymnasium,test,dev,docs]'
	@touch $@
