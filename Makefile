# Two commands on a fresh machine with Python 3.11 and make: `make demo`, `make test`. Nothing is installed outside .venv.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
# Checking for a newer pip is a network call that is not needed.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Applies the constraints to the build of the package too, which `pip install -c` does not.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: venv demo test test-long test-cluster test-zoo lint format clean
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
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not zoo and not long and not ray and not cluster"
	$(BIN)/python -m pytest -m "(ray or cluster) and not zoo and not long"

# Takes minutes. Longer versions of tests in `make test`: all kinds of sweeps, all presets on real images.
test-long: $(STAMP)
	$(BIN)/python -m pytest -m "long and not cluster"

# Takes minutes. Clusters of several nodes on this machine: nodes that are lost, and an autoscaler that starts them.
test-cluster: $(STAMP)
	$(BIN)/python -m pytest -m "cluster and long"

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

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache
