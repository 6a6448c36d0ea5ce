# Everything runs in .venv of the checkout, made on first use. `make` alone lists the targets.
PYTHON ?= python3
FLAVOUR ?= cpu
VENV := .venv
RUN := $(VENV)/bin/python
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-dist test-container soak bench check fix lock images sizes

help:  ## list the targets
	@grep -hE '^[a-z][a-z/%A-Z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 24

setup: $(VENV)/.ready  ## make .venv with everything that development needs

# torch is pinned first: an unpinned torch would be dragged in by others with gigabytes of CUDA.
$(VENV)/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is missing. Fix: install Python 3.11 or newer, or set PYTHON=..." >&2; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) || { echo "make: no venv module. Fix: apt-get install python3-venv" >&2; exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## the main job end to end: 2 hosts x 2 ranks on real digits, interrupted and resumed
	@$(RUN) -m examples.demo

test: setup  ## unit, policy, docs and several ranks on gloo; says what it left out
	$(RUN) -m pytest -m "not container and not gpu"
	@$(RUN) -m tests.left_out

test-dist: setup  ## only the tests that start several ranks
	$(RUN) -m pytest -m dist

test-container: setup image/pytorch  ## real containers: needs a Docker engine
	$(RUN) -m pytest -m container tests/container

soak: setup  ## long fault campaigns: interruptions on this machine, then two hours of faults on containers
	$(RUN) -m pytest -m dist --count-kills 20 tests/dist
	@$(MAKE) --no-print-directory image/pytorch
	$(RUN) -m tests.container.campaign

bench: setup  ## every performance claim, against its peers
	@failed=; for name in start launch relay local profile read pipe index resume; do $(RUN) -m benchmarks $$name || failed="$$failed $$name"; done; \
	test -z "$$failed" || { echo "make: goals missed:$$failed" >&2; exit 1; }

check: setup  ## lint, types, layers; changes nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright
	$(VENV)/bin/lint-imports

fix: setup  ## what the linters can mend themselves
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: setup  ## pin what is installed now
	$(VENV)/bin/pip freeze --exclude-editable | sed -E 's/\+cpu//' | grep -viE '^(pip|setuptools)==' > constraints.txt

images: image/pytorch  ## build every image of images.toml

image/%: setup  ## build one image, FLAVOUR=cpu or cuda
	$(RUN) -m images build $* --flavour $(FLAVOUR)

test-image/%: image/%  ## build one image and run the container tests
	$(RUN) -m pytest -m container tests/container

sizes: setup  ## sizes of the built images
	$(RUN) -m images sizes
