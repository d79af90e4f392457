# make demo   builds what is needed and runs the first real job
# make test   builds, then runs all quick tests
# make check  format, lint, types, tidy, then `make test`
# make slow   what needs real Ray, torch, more than 1 GB or more than two minutes
# make faults every fault of the fault table ten times in a row (part of `make slow`)
# make bench  this engine and Ray 2.60 in turn: medians and ratios (BENCH="--only calls --rounds 5" to choose)
# make format rewrites what `make check` would complain about
# make pythons  builds for every other CPython found and runs the smoke test there (part of `make test` under CI)
#
# A fresh machine needs Rust and Python only. Everything installed goes to .venv; stamps in it make a second run start at once.
# PYTHON=/path/to/python3.12 chooses the interpreter of a .venv that does not exist yet.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell .ci/pythons first)
VENV := .venv
PY := $(VENV)/bin/python
RUST := Cargo.toml Cargo.lock pyproject.toml $(shell find crates -name '*.rs' -o -name Cargo.toml -o -name build.rs)
# The same interpreter for maturin, clippy and check, so that they share what they compile.
export PYO3_PYTHON := $(CURDIR)/$(PY)
export CARGO_TERM_COLOR ?= auto

.PHONY: help demo test check slow faults bench clean format venv build rust-test py-test smoke pythons lint types tidy
help:
	@sed -n 's/^# make/make/p' Makefile

# --- environment ------------------------------------------------------------------------------------------------------

# uv when it is there (fast), else the venv module and pip.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv)
ifeq ($(UV),uv)
make_venv = uv venv --quiet --allow-existing --python $(1) $(2)
install = uv pip install --quiet --python $(1)
MATURIN_INSTALLER := --uv
else
make_venv = $(1) -m venv $(2) && $(2)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
install = $(1)/bin/python -m pip install --quiet
MATURIN_INSTALLER :=
endif

$(VENV)/.made:
	@.ci/needed
	@echo "making $(VENV) with $(PYTHON)"
	@$(call make_venv,$(PYTHON),$(VENV))
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	@echo "installing what the demo needs"
	@$(call install,$(VENV)) --group build --group demo
	@touch $@

$(VENV)/.dev: $(VENV)/.demo pyproject.toml
	@echo "installing what the tests and checks need"
	@$(call install,$(VENV)) --group dev
	@touch $@

# The extension module, in place: python/ray is imported from the tree.
$(VENV)/.native: $(RUST) $(VENV)/.demo
	@.ci/needed
	@echo "building the engine"
	@. $(VENV)/bin/activate && maturin develop --quiet --release --group build $(MATURIN_INSTALLER)
	@touch $@

venv: $(VENV)/.dev
build: $(VENV)/.native

# --- targets ----------------------------------------------------------------------------------------------------------

demo: $(VENV)/.native
	@$(PY) examples/first_job.py

test: rust-test py-test smoke

# ray-py links against the interpreter that loads it, so it has no Rust tests of its own; its tests are the Python ones.
rust-test:
	@.ci/needed
	cargo test --quiet --workspace --exclude ray-py

py-test: $(VENV)/.native $(VENV)/.dev
	$(PY) -m pytest -q -m "not slow" tests --ignore=tests/tidy --ignore=tests/typing
	RAY_LOCAL_MODE=1 $(PY) -m pytest -q -m "not slow" tests/conformance --ignore=tests/conformance/objects/test_store_capacity.py

# Other interpreters cost a build each: under CI, or by hand with `make pythons`.
smoke:
ifdef CI
	@$(MAKE) pythons
else
	@echo "other Pythons: left out here, run by 'make pythons' and under CI"
endif

pythons: $(VENV)/.dev
	@.ci/smoke $(VENV) $(UV)

check: lint types tidy test

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings

types: $(VENV)/.dev
	$(VENV)/bin/mypy

# --confcutdir: the layout is checked without importing what it describes.
tidy: $(VENV)/.native $(VENV)/.dev
	$(PY) -m pytest -q --confcutdir=tests/tidy tests/tidy tests/typing

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	cargo fmt --all

slow: $(VENV)/.native $(VENV)/.dev faults
	$(PY) -m pytest -q -m slow tests || [ $$? -eq 5 ]
	ray=$$($(PY) benchmarks/compare.py --make-ray) && $$ray -m pytest -q tests/conformance
	cargo test --quiet --release --workspace --exclude ray-py -- --ignored

# Each fault ten times in a row: one that is handled nine times of ten is not handled.
NODE_FAULTS := $(addprefix tests/cluster/test_,node_faults.py actors_over_nodes.py cables.py)
faults: $(VENV)/.native $(VENV)/.dev
	for round in 1 2 3 4 5 6 7 8 9 10; do \
		$(PY) -m pytest -q tests/chaos && $(PY) -m pytest -q -m "slow or not slow" $(NODE_FAULTS) || exit 1; done

bench: $(VENV)/.native $(VENV)/.dev
	@$(PY) benchmarks/compare.py $(BENCH)

clean:
	rm -rf target dist .venv .venv-3.* .mypy_cache .ruff_cache .pytest_cache first_job.png python/ray/_native*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
