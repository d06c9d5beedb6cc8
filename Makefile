# make run    set up, fetch the starter models, start the service
# make test   set up, run the tests
# make setup | dev | models | lint | lock | clean

PYTHON ?= python3
# two test processes beside each other: every model runs on one thread in tests
PYTEST ?= -n 2
VENV := .venv
BIN := $(VENV)/bin
# another CMAKE_ARGS (a GPU build, say) installs again
ARGS := $(shell printf '%s' "$(CMAKE_ARGS)" | cksum | cut -d' ' -f1)
LOCKS := requirements.lock requirements-dev.lock requirements-build.lock
COMPILE = uv pip compile --quiet --no-config --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header --custom-compile-command 'make lock'

.PHONY: run test setup dev models lint lock clean

run: models
	$(BIN)/batch serve --profile starter

test: dev
	$(BIN)/batch models pull --profile starter
	$(BIN)/batch models pull whisper-tiny-en
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(PYTEST)

setup: $(VENV)/installed-$(ARGS)

dev: $(VENV)/installed-dev-$(ARGS)

models: setup
	$(BIN)/batch models pull --profile starter

lint: dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# a developer's command: needs uv
lock:
	$(COMPILE) -o requirements.lock pyproject.toml
	$(COMPILE) --group dev -c requirements.lock -o requirements-dev.lock pyproject.toml
	$(COMPILE) --group build -o requirements-build.lock

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-$(ARGS): $(VENV)/bin/python pyproject.toml requirements.lock requirements-build.lock setup/install.py
	$(BIN)/python setup/install.py
	touch $@

# a superset of the above
$(VENV)/installed-dev-$(ARGS): $(VENV)/bin/python pyproject.toml $(LOCKS) setup/install.py
	$(BIN)/python setup/install.py --dev
	touch $@ $(VENV)/installed-$(ARGS)
