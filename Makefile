# Two commands on a fresh machine with Python 3.11 and make: `make demo`, `make test`. Nothing is installed outside .venv.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
# Checking for a newer pip is a network call that is not needed.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Applies the constraints to the build of the package too, which `pip install -c` does not.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: venv demo test test-fast test-ray test-long test-cluster chaos test-zoo coverage lint format docs dist clean
.DEFAULT_GOAL := test

venv: $(STAMP)

# The stamp is written last, so that an interrupted install is repeated.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/cxr-ray demo --out demo

# Tests without Ray run in parallel, one thread each; tests with Ray need all cores.
test: test-fast test-ray

FAST := -n auto --maxprocesses 4 --dist loadfile -m "not zoo and not long and not ray and not cluster"

test-fast: $(STAMP)
	$(BIN)/python -m pytest $(FAST)

test-ray: $(STAMP)
	$(BIN)/python -m pytest -m "(ray or cluster) and not zoo and not long"

# The lines and branches that the tests without Ray reach, by package. Takes half as long again as these tests.
coverage: $(STAMP)
	$(BIN)/python -m pytest $(FAST) --cov --cov-config=pyproject.toml --cov-report=
	$(BIN)/python benchmarks/code_coverage.py

# Takes minutes. Longer versions of tests in `make test`: all kinds of sweeps, all presets on real images.
test-long: $(STAMP)
	$(BIN)/python -m pytest -m "long and not cluster"

# Takes minutes. Clusters of several nodes on this machine: nodes that are lost, and an autoscaler that starts them.
test-cluster: $(STAMP)
	$(BIN)/python -m pytest -m "cluster and long"

# Random kills of a training on a cluster on this machine, about a minute each; a line of JSON per kill in build/chaos.jsonl.
N ?= 40
chaos: $(STAMP)
	$(BIN)/python -m tests.on_ray.chaos --kills $(N)

# Every architecture with real data. Takes minutes, and 16 GiB of memory for the largest.
test-zoo: $(STAMP)
	$(BIN)/python -m pytest -m zoo tests/models

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in build/docs. Executes the tutorials, which takes minutes; NOTEBOOKS=off shows pages of text in seconds.
docs: $(STAMP)
	$(BIN)/python -m sphinx --quiet --fail-on-warning -b html -d build/doctrees docs build/docs
	$(BIN)/python docs/check.py build/docs

# A release: sdist and wheel in dist/, and the wheel tried in an environment that has nothing else, in a folder of its own.
TRY := build/wheel
dist:
	rm -rf dist $(TRY)
	$(PYTHON) -m venv $(TRY)/.venv
	$(TRY)/.venv/bin/python -m pip install --quiet hatchling
	$(TRY)/.venv/bin/python -m hatchling build -d dist
	$(TRY)/.venv/bin/python -m pip install --quiet dist/*.whl
	cd $(TRY) && .venv/bin/cxr-ray config -c preset:chexpert_sweep > sweep.yaml
	cd $(TRY) && .venv/bin/cxr-ray demo --patients 60
	@ls -l dist

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache
