# `make run` and `make test` need Python 3.11+ with venv, and make. Everything else is installed into .venv.
PYTHON ?= python3
# The index that pytorch.org's install page shows for "CPU"; for machines without a GPU. See the README.
TORCH_INDEX_URL ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

.PHONY: run test check format soak test-gpu bench browser clean

run: .venv/.installed
	$(BIN)/python -m chatlab serve

test: .venv/.installed-dev browser check
	$(BIN)/python -m pytest -m "not gpu and not slow"
	PYTHONPATH=$(CURDIR) $(BIN)/python -m pytest --nbmake --nbmake-timeout=300 notebooks

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/python tools/notebooks.py notebooks/*.ipynb

format: .venv/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: .venv/.installed-dev
	$(BIN)/python -m pytest -m slow

test-gpu: .venv/.installed-dev
	$(BIN)/python -m pytest -m gpu

bench: .venv/.installed-dev
	$(BIN)/python -m chatlab bench turn
	$(BIN)/python -m chatlab bench store
	$(BIN)/python -m chatlab bench cache
	$(BIN)/python -m chatlab bench browse
	$(BIN)/python -m chatlab bench engine

# Tests of the page need a Chromium; Debian's is installed where that is possible.
browser:
ifeq ($(CHROMIUM),)
	@echo "installing Chromium for the tests of the page"
	@if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq chromium > /dev/null; \
	else echo "no Chromium found: install one (Debian, Ubuntu: sudo apt-get install chromium)"; exit 1; fi
endif

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "chatlab needs Python 3.11 or later: set PYTHON=/path/to/it"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "python's venv is missing (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
	@touch $@

.venv/.installed: .venv/.made requirements.txt requirements-bundled.txt
	@echo "installing chatlab's packages (once, a few minutes)"
	@$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$$(grep '^torch==' requirements.txt)"
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps -r requirements-bundled.txt
	@touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	@echo "installing the packages for tests"
	@$(PIP) -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv .chatlab
