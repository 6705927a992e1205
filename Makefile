# `make demo` and `make test` need nothing but Python 3.11 or later; they make `.venv` themselves.
# Bare `make` prints what stands behind `##`.

PYTHON ?= python3

# The frameworks to test, torch where it is installed. The first one is tested most.
BACKENDS ?= tensorflow jax $(notdir $(wildcard $(VENV)/lib/python*/site-packages/torch))

# Processes that share the tests of a framework; with 0, the tests run in pytest's own process.
WORKERS ?= 2

# What `fmt`, `fmt-check`, `lint` and `types` look at.
FILES ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The site is built by an environment of its own, without Keras.
SITE_VENV := .venv-docs
SITE_BIN := $(SITE_VENV)/bin
SITE_INSTALLED := $(SITE_VENV)/.installed

# Formatting and linting need ruff alone, which installs in seconds.
RUFF_VENV := .venv-ruff
RUFF := $(RUFF_VENV)/bin/ruff
RUFF_INSTALLED := $(RUFF_VENV)/.installed

# For `pipefail`.
SHELL := bash

# Quiet the framework's start-up notes; set it to 0 to see them.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo torch test test-all test-full test-rest smoke check checks fmt fmt-check lint \
  types floors bench docs faults hostile drawn keras wheels
.DEFAULT_GOAL := help

help:
	@echo 'make TARGET'
	@sed -nE 's/^([a-z-]+):.* ## (.*)/  \1\t\2/p' Makefile | expand -t 14
	@echo 'CONTRIBUTING.md explains them.'

# pip is the last thing that venv writes: without it, the environment is only half made.
%/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, and $(PYTHON) is " + sys.version.split()[0] + ": pass PYTHON=...")'
	$(PYTHON) -m venv $*

# An environment that has everything already only gets its stamp.
$(INSTALLED): requirements-dev.txt pyproject.toml src/perigee/_version.py | $(BIN)/pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(SITE_INSTALLED): requirements-docs.txt | $(SITE_BIN)/pip
	$(SITE_BIN)/python -m pip install --quiet -r requirements-docs.txt
	@touch $@

$(RUFF_INSTALLED): requirements-dev.txt | $(RUFF_VENV)/bin/pip
	$(RUFF_VENV)/bin/python -m pip install --quiet "$$(grep '^ruff==' requirements-dev.txt)"
	@touch $@

demo: $(INSTALLED) ## train a first model and show what Perigee reports
	$(BIN)/python examples/digits.py

torch: $(INSTALLED) ## install torch, whose tests run only where it is installed
	$(BIN)/python -m pip install --quiet -r requirements-torch.txt

# Keras fixes its backend at import, so the frameworks are tested one after the other. Each worker
# takes neighbors, which share trainings, and in the end what the other one has not begun.
# pyproject.toml explains the markers.
FIRST = $(firstword $(BACKENDS))
OTHERS = $(filter-out $(FIRST),$(BACKENDS))
QUICK := not slow and (not process or sample)

# What `make test` runs on the other frameworks: whole files.
SMOKE := $(addprefix tests/,backends/test_contract.py rehearsal/test_discovery.py step/test_step.py)

# Call it with what the first framework runs, and what the others do.
layer = $(MAKE) --no-print-directory --keep-going --jobs=1 \
  $(addprefix on-,$(BACKENDS)) ON_FIRST='$(1)' ON_OTHERS='$(2)'

on-%: $(INSTALLED)
	@echo "The tests on $*:"
	@KERAS_BACKEND=$* $(BIN)/python -m pytest $(if $(filter $*,$(FIRST)),$(ON_FIRST),$(ON_OTHERS)) \
	  -n $(WORKERS) --dist worksteal

test: $(INSTALLED) ## the quick tests on one framework, and a few on the others (5 minutes)
	@$(MAKE) --no-print-directory --keep-going --jobs=1 on-$(FIRST) smoke ON_FIRST='-m "$(QUICK)"'

# One process for each framework, side by side.
smoke: $(INSTALLED)
ifneq ($(OTHERS),)
	@$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target \
	  $(addprefix on-,$(OTHERS)) ON_OTHERS='$(SMOKE) -m "not once"' WORKERS=0
endif

test-all: $(INSTALLED) ## every quick test on every framework (12 minutes)
	@$(call layer,-m "not slow",-m "not slow and not once and not mostly_once")

test-full: $(INSTALLED) ## every test on every framework (25 minutes with the checks)
	@$(call layer,,-m "not once")

# What of it the first framework runs, and what the others do.
REST_ON_FIRST ?= not ($(QUICK))
REST_ON_OTHERS ?= not once

test-rest: $(INSTALLED) ## what test-full runs and test does not
	@$(call layer,-m "$(REST_ON_FIRST)",-m "$(REST_ON_OTHERS)" $(addprefix --ignore=,$(SMOKE)))

check: checks test ## checks and test: run it before each push

checks: fmt-check lint types floors ## fmt-check, lint, types and floors

fmt: $(RUFF_INSTALLED) ## format, and mend what ruff can mend
	$(RUFF) format --force-exclude $(FILES)
	$(RUFF) check --force-exclude --fix-only --quiet $(FILES)

fmt-check: $(RUFF_INSTALLED) ## whether the files are formatted
	$(RUFF) format --force-exclude --check $(FILES)

lint: $(RUFF_INSTALLED) ## ruff's rules
	$(RUFF) check --force-exclude $(FILES)

# Then, whether users' own type checkers find a type on every public name: of what pyright says, all
# but the list of modules. It looks for the package in the first `python` of the path.
types: $(INSTALLED) ## pyright, and whether each public name has a type
	$(BIN)/pyright $(FILES)
	@set -o pipefail; PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --verifytypes perigee \
	  --ignoreexternal | sed '/^Public modules/,/^$$/d'

floors: $(INSTALLED) ## which module may import which; the contract is in pyproject.toml
	$(BIN)/lint-imports --no-cache

# `make bench BENCH="--backends jax"` measures less; `--orbit PATH` says where Orbit lies.
bench: $(INSTALLED) ## the benchmarks (25 minutes)
	$(BIN)/python -m benchmarks.run_all $(BENCH)

faults: $(INSTALLED) ## which planted faults `check` finds, in all corpora (15 minutes)
	$(BIN)/python -m tests.diagnostics.faults $(FAULTS)

# `make hostile HOSTILE="--count 10 --seed 1000"` reads others.
hostile: $(INSTALLED) ## run directories that mean harm, through all that reads them (5 minutes)
	$(BIN)/python -m tests.reliability.hostile $(HOSTILE)

# `make drawn DRAWN="--seed 3 --way supervised"` chooses.
drawn: $(INSTALLED) ## ordinary programs, trained by `model.fit` and by Perigee (5 minutes)
	$(BIN)/python -m tests.parity.drawn $(DRAWN)

# A checkout of Keras at the installed version, or what pip installed.
KERAS ?= $(wildcard $(VENV)/lib/python*/site-packages/keras)

keras: $(INSTALLED) ## Keras's own tests of its trainer and callbacks, with Perigee
	@for backend in $(BACKENDS); do \
	  KERAS_BACKEND=$$backend $(BIN)/python -m tests.parity.keras_suite $(KERAS) || exit 1; \
	done

# `make wheels WHEELS="jax --lowest"` tries the oldest versions, and
# `WHEELS=tensorflow=tensorflow-cpu` another package in place of an extra.
wheels: $(INSTALLED) ## the wheel, in an empty environment for each extra (10 minutes)
	$(BIN)/python -m tests.project.wheels $(WHEELS)

# A link that leads nowhere, a missing page and a name that the reference does not know are errors.
docs: export PYTHONPATH := src
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(SITE_INSTALLED) ## write the generated pages, then build the site into build/site
	$(SITE_BIN)/python docs/generate_errors.py
	$(SITE_BIN)/python docs/generate_distribution.py
	$(SITE_BIN)/python docs/generate_notebook.py
	$(SITE_BIN)/python docs/generate_site.py
	$(SITE_BIN)/mkdocs build --strict
	$(SITE_BIN)/python docs/check_site.py build/site
