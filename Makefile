# One command for each thing; all of them set up .venv first, once.
#   make demo    phantom dataset -> the whole loop -> runs/demo/report.html
#   make serve   MONAI Label on runs/demo at 127.0.0.1:8000, ready for 3D Slicer; SCANS=FOLDER serves your own hrT2 scans
#   make test    the test-suite          make bench   the benchmarks, as a table
#   make lint    ruff and mypy           make lock    requirements.lock from pyproject.toml

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
# Bytecode makes a start of MONAI three times as fast, so it is kept even where the environment says otherwise.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
# PyTorch's threads wait awake for a moment only: for as long as they do by default, they take the cores from whatever else
# runs; asleep at once (OMP_WAIT_POLICY=PASSIVE), a translator's many small steps take twice as long.
export GOMP_SPINCOUNT ?= 10000

PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do if $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then echo $$p; break; fi; done)
VENV := .venv
RUN := $(VENV)/bin/python
UV := .bootstrap/bin/uv
STAMP := $(VENV)/.installed
DEMO := runs/demo
DEMO_DATA := runs/demo_data
MINE ?= runs/scans

.PHONY: help demo test serve bench lint lock setup clean

help:
	@sed -n 's/^# \{0,3\}//p' Makefile | head -5

setup: $(STAMP)

$(UV):
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 found; install one or give PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .bootstrap
	.bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv

$(STAMP): requirements.lock pyproject.toml | $(UV)
	test -x $(RUN) || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --require-hashes --python $(RUN) requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(RUN) --editable .
	touch $(STAMP)

demo: $(STAMP)
	$(RUN) -m crossmoda demo $(DEMO) --dataset $(DEMO_DATA)

serve: $(STAMP)
	$(RUN) -m crossmoda serve $(if $(SCANS),"$(MINE)" --scans "$(SCANS)",$(DEMO))

# A process a core, up to four, each with the tests of whole files, on one thread: threads of several processes wait for one another.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

bench: $(STAMP)
	$(RUN) scripts/bench.py

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

lock: | $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--override requirements.overrides.txt --all-extras pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(DEMO) $(DEMO_DATA)
