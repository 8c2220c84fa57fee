# make new   asks, and generates a project beside this folder; OUT=folder for elsewhere, ARGS="..."
#            for cookiecutter: make new ARGS="--no-input session_store=cache"
# make test  lints, type-checks and tests the engine, and the template in every combination
# make bench  measures a generated app beside its peers: see lab/README.md;
#            ARGS="--quick" takes two minutes, ARGS="--only 'cache read'" picks rows
# make soak  kills, pauses and cuts off what a generated app under load needs;
#            ARGS="--store valkey --seconds 600" picks a store, and how long
# make capacity  prints what a session takes in each store, and what a call costs
# make compare  puts a generated app and its peers through the same promises
# make pictures  draws those of README.md anew
#
# All install what they need first, pinned and with hashes: into .venv; bench and compare, whose
# packages would change what the tests run on, into .venv-bench; and make test also the lowest
# versions that a generated project allows, into .venv-lowest. Nothing is installed outside but
# Chromium, for make test, where there is none: tests/browser.py says how.

OUT ?= ..
ARGS ?=
IS_NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
# The first of these that is new enough.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python $(IS_NEW_ENOUGH) 2>/dev/null \
	&& echo $$python && break; done)
PYTHON_FILES := hooks lab tests template_extension.py
BIN := $(CURDIR)/.venv/bin
INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: new test bench capacity compare soak pictures pins
.SILENT: new

new: .venv/new
	$(BIN)/cookiecutter . --output-dir="$(OUT)" $(ARGS)

test: .venv/dev .venv-lowest/done
	$(BIN)/ruff check $(PYTHON_FILES) engine
	$(BIN)/ruff format --check $(PYTHON_FILES) engine
	$(BIN)/mypy
	cd engine && $(BIN)/mypy
	$(BIN)/python -m tests.browser
	cd engine && $(PYTEST)
	$(PYTEST)

bench: .venv-bench/done
	.venv-bench/bin/python -m lab.benchmarks $(ARGS)

capacity: .venv-bench/done
	.venv-bench/bin/python -m lab.benchmarks.capacity $(ARGS)

compare: .venv-bench/done
	.venv-bench/bin/python -m lab.benchmarks.comparison $(ARGS)

pictures: .venv/dev
	$(BIN)/python -m tests.browser
	$(BIN)/python -m lab.pictures

soak: .venv/dev
	$(BIN)/python -m lab.soak $(ARGS)

# After a change of a pyproject.toml; with UPGRADE=--upgrade, for newer versions.
PIN := uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header
pins: .venv/new
	folder=$$(mktemp -d) && project=$$folder/my-app/pyproject.toml && \
	$(BIN)/cookiecutter . --output-dir $$folder --no-input > /dev/null && \
	all="$$project --all-extras" && \
	for group in dev cache postgresql; do all="$$all --group $$project:$$group"; done && \
	$(PIN) pyproject.toml --output-file requirements/new.txt && \
	for set in dev bench; do \
	$(PIN) pyproject.toml --group $$set $$all --output-file requirements/$$set.txt || exit; done && \
	$(PIN) $$all --resolution lowest-direct --output-file requirements/lowest.txt; rm -r $$folder

.venv/dev: .venv/new requirements/dev.txt
	$(BIN)/python $(INSTALL) --requirement requirements/dev.txt
	touch $@

.venv/new: requirements/new.txt
	$(require-python)
	@$(PYTHON) $(IS_NEW_ENOUGH) || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) --requirement requirements/new.txt
	touch $@

.venv-%/done: requirements/%.txt
	$(require-python)
	@$(PYTHON) $(IS_NEW_ENOUGH) || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(INSTALL) --requirement $<
	touch $@

require-python = $(if $(PYTHON),,$(error Python 3.11 or newer is needed, and neither python3 nor python3.11 to 3.14 is; name one: make PYTHON=/path/to/python))
