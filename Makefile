# Each target is complete by itself: the first one run builds .venv. Needs Python 3.11+ with venv, and make.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
DOCS := build

.PHONY: demo test check docs gpu-check browser

demo: $(READY)  ## T-Maze data, RATE and DT trained on them, evaluated, plotted
	$(VENV)/bin/python -m experiments.demo

test: $(READY) browser  ## the quick test suite
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

# Where no Chromium is found and apt-get may install none, the tests of pages are skipped.
browser: $(READY)  ## a Chromium for the tests of pages, by apt-get where this user may
	@$(VENV)/bin/python -m tests.browser || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null \
		&& echo "installing chromium for the tests of pages" && apt-get update -q \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium; } || true

check: $(READY)  ## style, types, and which way imports point
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

docs: $(READY)  ## the site, into site/; `make docs DOCS=serve` shows it while you write
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(VENV)/bin/mkdocs $(DOCS) --strict

gpu-check: $(READY)  ## on a machine with a CUDA device: its tests, then a table of speeds
	@$(VENV)/bin/python -m experiments.speed.gpu --only-ask
	$(VENV)/bin/python -m pytest tests/gpu
	$(VENV)/bin/python -m experiments.speed.gpu

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
