# make run        set up, fetch the starter models, start the service
# make test       set up, run the tests that a newcomer wants, under 12 minutes
# make check      formatting, lint, types, contracts, unit tests: before every commit, under 90 seconds on two cores
# make format     write all files as the formatter wants them
# make test-unit  the unit tests only; test-drill, test-slow, test-peer …: the tests of that marker
# make docs       the documentation site in build/site; docs-pages: only the pages made from the code
# make setup | dev | models | lint | lock | clean

PYTHON ?= python3
# two test processes beside each other: every model runs on one thread in tests. Unit tests load none, and for a third of their
# time they wait for files to stand still and for processes to end, so that four keep two cores busy; what a file's tests share
# is made once (loadfile)
ifndef PYTEST
PYTEST := -n 2
test-unit: PYTEST := -n 4 --dist loadfile
endif
VENV := .venv
BIN := $(VENV)/bin
# another CMAKE_ARGS (a GPU build, say) installs again, and so does another processor: its build must be probed there
PROCESSOR := $(shell grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null | cksum | cut -d' ' -f1)
ARGS := $(shell printf '%s' "$(CMAKE_ARGS) $(PROCESSOR)" | cksum | cut -d' ' -f1)
LOCKS := requirements.lock requirements-dev.lock requirements-build.lock
INSTALLER := setup/install.py setup/llama_source.py $(wildcard setup/llama_cpp/*)
# what takes long or needs more than this package runs in CI
CI_ONLY := drill or slow or peer or browser or postgres
COMPILE = uv pip compile --quiet --no-config --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header --custom-compile-command 'make lock'

# hundreds of processes start in the tests, and each would compile all modules anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test path test-unit check format lint setup dev models test-models docs docs-pages lock clean

run: models
	$(BIN)/batch serve --profile starter

test: test-models
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(PYTEST) -m "not ($(CI_ONLY))"

check: lint test-unit

lint: dev
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev
	$(BIN)/ruff check -q --fix --exit-zero .
	$(BIN)/ruff format -q .

# of a property it tries the first examples; `make test` tries all
test-unit: export FEW_EXAMPLES := yes
test-unit: dev
	$(BIN)/python -m pytest $(PYTEST) tests/unit -m "not (slow or postgres)" -q

# a test with several of these markers runs with the first of them; 5: no test has it
test-slow: MORE = and not (drill or peer or browser or postgres)
test-postgres: MORE = and not (drill or peer or browser)
test-%: test-models
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(PYTEST) -m "$* $(MORE)" || [ $$? -eq 5 ]

# the whole path on real input, with the libraries that are installed: CI runs it under every Python and with every end of
# the versions that are allowed (INSTALLED=yes: not those of the lock file)
path: $(if $(INSTALLED),,dev)
	$(BIN)/batch models pull --profile starter
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest tests/service/test_end_to_end.py -q

setup: $(VENV)/installed-$(ARGS)

dev: $(VENV)/installed-dev-$(ARGS)

models: setup
	$(BIN)/batch models pull --profile starter

test-models: dev
	$(BIN)/batch models pull --profile starter
	$(BIN)/batch models pull whisper-tiny-en

docs-pages: dev
	$(BIN)/python docs/generate.py

# strict, and so not --quiet, which hides what strict counts: a link that leads nowhere, or a page that is not in the site's index, fails
docs: docs-pages
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --clean

# uv comes with `make dev`, but its own version is locked too: the first time, have one of your own on the path
lock: export PATH := $(abspath $(BIN)):$(PATH)
lock:
	$(COMPILE) -o requirements.lock pyproject.toml
	$(COMPILE) --group dev -c requirements.lock -o requirements-dev.lock pyproject.toml
	$(COMPILE) --group build -o requirements-build.lock
	$(COMPILE) -o tests/clients/requirements.lock tests/clients/requirements.txt
	$(COMPILE) -o tests/s3/requirements.lock tests/s3/requirements.txt

clean:
	rm -rf $(VENV) build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-$(ARGS): $(VENV)/bin/python pyproject.toml requirements.lock requirements-build.lock $(INSTALLER)
	$(BIN)/python setup/install.py
	touch $@

# a superset of the above
$(VENV)/installed-dev-$(ARGS): $(VENV)/bin/python pyproject.toml $(LOCKS) $(INSTALLER)
	$(BIN)/python setup/install.py --dev
	touch $@ $(VENV)/installed-$(ARGS)
