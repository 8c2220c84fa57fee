# make new   asks, and generates a project beside this folder; OUT=folder for elsewhere, ARGS="..."
#            for cookiecutter: make new ARGS="--no-input session_store=cache"
# make test  lints, type-checks and tests the template and every combination of its answers
# make bench  measures a generated app beside its peers: see benchmarks/__init__.py;
#            ARGS="--quick" takes two minutes, ARGS="--only 'cache read'" picks rows
# make soak  kills, pauses and cuts off what a generated app under load needs: see soak/__init__.py;
#            ARGS="--store valkey --seconds 600" picks a store, and how long
# make capacity  prints what a session takes in each store, and what a call costs: docs/scaling.md
# make compare  puts a generated app and its peers through the same promises: benchmarks/comparison.py
# make pictures  draws those of README.md anew: see pictures/__init__.py
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
PYTHON_FILES := benchmarks pictures soak tests new.py template_*.py
INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes

.PHONY: new test bench capacity compare soak pictures pins
.SILENT: new

new: .venv/new
	.venv/bin/python new.py --output-dir="$(OUT)" $(ARGS)

test: .venv/dev .venv-lowest/done
	.venv/bin/ruff check $(PYTHON_FILES)
	.venv/bin/ruff format --check $(PYTHON_FILES)
	.venv/bin/mypy
	.venv/bin/python -m tests.browser
	.venv/bin/python -m pytest --numprocesses auto --dist worksteal

bench: .venv-bench/done
	.venv-bench/bin/python -m benchmarks $(ARGS)

capacity: .venv-bench/done
	.venv-bench/bin/python -m benchmarks.capacity

compare: .venv-bench/done
	.venv-bench/bin/python -m benchmarks.comparison $(ARGS)

pictures: .venv/dev
	.venv/bin/python -m tests.browser
	.venv/bin/python -m pictures

soak: .venv/dev
	.venv/bin/python -m soak $(ARGS)

# After a change of a pyproject.toml, the generated one too, or for newer versions.
PIN := uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header
pins: .venv/new
	for set in new dev bench; do $(PIN) pyproject.toml \
	$$([ $$set = new ] || echo --group $$set) --output-file requirements/$$set.txt; done
	folder=$$(mktemp -d) && .venv/bin/python new.py --output-dir $$folder --no-input > /dev/null && \
	$(PIN) $$folder/my-app/pyproject.toml --resolution lowest-direct --all-extras \
	$$(for group in dev cache postgresql; do echo --group $$folder/my-app/pyproject.toml:$$group; done) \
	--output-file requirements/lowest.txt; rm -r $$folder

.venv/dev: .venv/new requirements/dev.txt
	.venv/bin/python $(INSTALL) --requirement requirements/dev.txt
	touch $@

.venv/new: requirements/new.txt
	$(require-python)
	@$(PYTHON) $(IS_NEW_ENOUGH) || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python $(INSTALL) --requirement requirements/new.txt
	touch $@

.venv-%/done: requirements/%.txt
	$(require-python)
	@$(PYTHON) $(IS_NEW_ENOUGH) || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python $(INSTALL) --requirement $<
	touch $@

require-python = $(if $(PYTHON),,$(error Python 3.11 or newer is needed, and neither python3 nor python3.11 to 3.14 is; name one: make PYTHON=/path/to/python))
