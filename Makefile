# `make demo` and `make test` need nothing but Python 3.11 or later; they make `.venv` themselves.

PYTHON ?= python3

# The frameworks to test: torch where it is installed.
BACKENDS ?= tensorflow jax $(shell $(BIN)/python -c 'import torch' 2>/dev/null && echo torch)

# Processes that share the tests of a framework.
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The site is built by an environment of its own, without Keras.
SITE_VENV := .venv-docs
SITE_BIN := $(SITE_VENV)/bin
SITE_INSTALLED := $(SITE_VENV)/.installed

# For `pipefail`.
SHELL := bash

# Quiet the framework's start-up notes; set it to 0 to see them.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo torch test check fmt fmt-check lint types floors bench docs faults drawn wheels
.DEFAULT_GOAL := check

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

# Train a first model and show what Perigee reports.
demo: $(INSTALLED)
	$(BIN)/python examples/digits.py

torch: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -r requirements-torch.txt

# Keras fixes its backend at import, so the backends run one after the other, each by two workers:
# `make test BACKENDS=jax` runs one, `WORKERS=0` a single process. What knows no framework runs with
# the first one. Tests are handed out in order, so that slow ones still come last.
test: $(INSTALLED)
	@$(MAKE) --no-print-directory --keep-going --jobs=1 $(addprefix test-,$(BACKENDS))

test-%: $(INSTALLED)
	@echo "The tests on $*:"
	@KERAS_BACKEND=$* $(BIN)/python -m pytest tests -n $(WORKERS) --dist load \
	  -m "$(if $(filter $*,$(firstword $(BACKENDS))),,not once)"

check: fmt-check lint types floors test

fmt: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .

fmt-check: $(INSTALLED)
	$(BIN)/ruff format --check .

lint: $(INSTALLED)
	$(BIN)/ruff check .

# Then, whether users' own type checkers find a type on every public name: of what pyright says, all
# but the list of modules. It looks for the package in the first `python` of the path.
types: $(INSTALLED)
	$(BIN)/pyright
	@set -o pipefail; PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --verifytypes perigee \
	  --ignoreexternal | sed '/^Public modules/,/^$$/d'

# Which module may import which; the contract is in pyproject.toml.
floors: $(INSTALLED)
	$(BIN)/lint-imports --no-cache

# Some 25 minutes on two quiet cores. `make bench BENCH="--backends jax"` measures less; `--orbit PATH`
# says where Orbit lies.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.run_all $(BENCH)

# What `check` finds of the faults that are planted in the corpora, by class; some 15 minutes.
faults: $(INSTALLED)
	$(BIN)/python -m tests.diagnostics.faults $(FAULTS)

# Ordinary programs, drawn and trained by `model.fit` and by Perigee; some five minutes on two quiet
# cores. `make drawn DRAWN="--seed 3 --way supervised"`.
drawn: $(INSTALLED)
	$(BIN)/python -m tests.parity.drawn $(DRAWN)

# The wheel, in an empty environment for each extra; some ten minutes, with what is downloaded.
# `make wheels WHEELS="jax --lowest"` tries the oldest versions, and `WHEELS=tensorflow=tensorflow-cpu`
# another package in place of an extra.
wheels: $(INSTALLED)
	$(BIN)/python -m tests.project.wheels $(WHEELS)

# Write the generated pages, then build the site into build/site: a link that leads nowhere, a
# missing page and a name that the reference does not know are errors.
docs: export PYTHONPATH := src
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(SITE_INSTALLED)
	$(SITE_BIN)/python docs/generate_errors.py
	$(SITE_BIN)/python docs/generate_distribution.py
	$(SITE_BIN)/python docs/generate_notebook.py
	$(SITE_BIN)/python docs/generate_site.py
	$(SITE_BIN)/mkdocs build --strict
	$(SITE_BIN)/python docs/check_site.py build/site
