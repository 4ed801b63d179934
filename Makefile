# hltfarm: `make demo` and `make test` work from a clean clone with python3.11 (or 3.12), its venv module and g++.

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c "" 2>/dev/null && echo $$p && break; done)
JOBS ?= auto
PYTEST_ARGS ?=
LOCK ?= requirements.lock

BIN := $(VENV)/bin
PY := $(BIN)/python
KERNEL_SOURCES := $(wildcard workers/*.py workers/*/*.py workers/*/*.cuh workers/*/*.cpp proto/soa.py)

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format bench wheel lock clean types

help:
	@echo "make demo    start a farm on this machine, stream events through it, print the report"
	@echo "make test    the whole test suite (GPU tests are skipped without a GPU)"
	@echo "make lint    ruff, mypy --strict, clang-format"
	@echo "make format  apply ruff and clang-format"
	@echo "make bench   throughput of the pipeline on this machine, by stage"
	@echo "make wheel   build the wheel, install it in a fresh environment, import every module"
	@echo "make lock    resolve the dependencies again and rewrite the lock files"

# The stamps hold the state of the environment: nothing is installed, and the network is not used, while they are fresh.
# LOCK=requirements-cuda.lock installs the CUDA variant.
$(VENV)/.deps: requirements.lock requirements-cuda.lock
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check --quiet -r $(LOCK)
	touch $@

$(VENV)/.built: $(VENV)/.deps pyproject.toml setup.py $(KERNEL_SOURCES)
	$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	touch $@

venv: $(VENV)/.built

demo: venv
	$(BIN)/hltfarm demo --out build/demo.json

test: venv
	$(PY) -m pytest -n $(JOBS) $(PYTEST_ARGS)

# Type checkers cannot follow the package mapping of an editable install: links show them the packages by name.
types:
	@mkdir -p build/types/hltfarm
	@for root in proto service workers loadgen; do ln -sfn ../../../$$root build/types/hltfarm/$$root; done

lint: venv types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p hltfarm
	git ls-files -z '*.cuh' '*.h' | xargs -0 -r $(BIN)/clang-format --dry-run -Werror

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files -z '*.cuh' '*.h' | xargs -0 -r $(BIN)/clang-format -i

bench: venv
	$(BIN)/hltfarm bench pipeline loadgen/data/demo.hlt --json build/bench-pipeline.json

wheel: venv
	$(PY) tests/packaging/check_wheel.py --work build/wheel --lock requirements.lock

lock: venv
	$(PY) deploy/lock.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
