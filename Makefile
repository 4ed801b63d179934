# hltfarm: `make demo` and `make test` work from a clean clone with python3.11 (or 3.12), its venv module and g++.

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c "" 2>/dev/null && echo $$p && break; done)
JOBS ?= auto
PYTEST_ARGS ?=
LOCK ?= requirements.lock

BIN := $(VENV)/bin
PY := $(BIN)/python
CONSOLE := service/console
CONSOLE_SOURCES := $(wildcard $(CONSOLE)/*.* $(CONSOLE)/src/*.* $(CONSOLE)/src/*/*.*)
KERNEL_SOURCES := $(wildcard workers/*.py workers/*/*.py workers/*/*.cuh workers/*/*.cpp proto/soa.py)

.DEFAULT_GOAL := help
.PHONY: images up down test-containers help venv demo test fuzz lint format bench models wheel lock clean types dashboards dashboards-check console docs

help:
	@echo "make demo    start a farm on this machine, stream events through it, print the report"
	@echo "make test    the whole test suite (GPU tests are skipped without a GPU)"
	@echo "make fuzz    foreign bytes to every parser and to the HTTP API, SECONDS=60 for each (Python 3.11 or 3.12)"
	@echo "make console the web console into service/console/static (make venv does it too, where it can)"
	@echo "make lint    ruff, mypy --strict, clang-format, types of the console where npm is there"
	@echo "make format  apply ruff and clang-format"
	@echo "make bench   throughput of the pipeline on this machine, by stage"
	@echo "make models  simulate samples and train the shipped models anew into build/models (an hour on two cores)"
	@echo "make wheel   build sdist and wheel (build/wheel/dist), use it in a fresh environment without compiler: import, reco, demo"
	@echo "make dashboards  write the Grafana dashboards of deploy/grafana again; make dashboards-check holds them against Grafana's types (npm)"
	@echo "make docs    the documentation with its references as a site (build/site), every link checked"
	@echo "make images  build the container images (docs/containers.md); make up, make down: a farm of them with monitoring, PROFILE=cpu or cuda"
	@echo "make test-containers   strike a farm of containers on a Docker engine, with images that are there"
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

$(VENV)/.console: $(VENV)/.built $(CONSOLE_SOURCES)
	$(PY) deploy/build_console.py
	touch $@

venv: $(VENV)/.built $(VENV)/.console

console: $(VENV)/.built
	$(PY) deploy/build_console.py --must

demo: venv
	$(BIN)/hltfarm demo --out build/demo.json

test: venv
	$(PY) -m pytest -n $(JOBS) $(PYTEST_ARGS)

# Type checkers cannot follow the package mapping of an editable install: links show them the packages by name.
types:
	@mkdir -p build/types/hltfarm
	@for root in proto service workers loadgen; do ln -sfn ../../../$$root build/types/hltfarm/$$root; done

# Coverage-guided, one target after the other; corpora and findings stay in build/fuzz. EXAMPLES requests of each kind to every operation.
SECONDS ?= 60
EXAMPLES ?= 200
fuzz: venv
	$(PY) -m pip install --disable-pip-version-check --quiet 'atheris>=3'
	$(PY) -m tests.fuzz.run all --seconds $(SECONDS)
	$(PY) -m tests.fuzz.http --examples $(EXAMPLES)

lint: venv types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p hltfarm
	$(PY) deploy/build_console.py --check
	git ls-files -z '*.cuh' '*.h' | xargs -0 -r $(BIN)/clang-format --dry-run -Werror

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files -z '*.cuh' '*.h' | xargs -0 -r $(BIN)/clang-format -i

bench: venv
	@mkdir -p build
	$(BIN)/hltfarm bench pipeline loadgen/data/demo.hlt --json build/bench-pipeline.json

# The shipped models from nothing, about an hour on two cores. What is finished is kept and not made again; results do not depend on CORES.
MODELS := build/models
CORES ?= $(shell nproc)
SAMPLES := $(addprefix $(MODELS)/,tt50.hlt mb50.hlt tt200.hlt tt20.hlt test_tt50.hlt test_mb50.hlt train_mb50.hlt)
$(MODELS)/tt50.hlt: SAMPLE := --events 700 --pileup 50 --process ttbar --seed 2001
$(MODELS)/mb50.hlt: SAMPLE := --events 150 --pileup 50 --process minbias --seed 2002
$(MODELS)/tt200.hlt: SAMPLE := --events 40 --pileup 200 --process ttbar --seed 2004
$(MODELS)/tt20.hlt: SAMPLE := --events 100 --pileup 20 --process ttbar --seed 2005
$(MODELS)/test_tt50.hlt: SAMPLE := --events 600 --pileup 50 --process ttbar --seed 3001
$(MODELS)/test_mb50.hlt: SAMPLE := --events 1500 --pileup 50 --process minbias --seed 3002 --no-truth
$(MODELS)/train_mb50.hlt: SAMPLE := --events 700 --pileup 50 --process minbias --seed 2006 --no-truth

$(SAMPLES): | venv
	@mkdir -p $(MODELS)
	$(BIN)/hltfarm simulate $(SAMPLE) --processes $(CORES) --out $@.part
	mv $@.part $@

# The page of the report is what a training writes last.
$(MODELS)/track/index.html: $(addprefix $(MODELS)/,tt50.hlt mb50.hlt tt200.hlt tt20.hlt test_tt50.hlt)
	$(BIN)/hltfarm train $(wordlist 1,4,$^) --test $(word 5,$^) --name track-mlp --seed 1 --out $(@D) --overwrite

$(MODELS)/event/index.html: $(addprefix $(MODELS)/,tt50.hlt train_mb50.hlt test_tt50.hlt test_mb50.hlt) $(MODELS)/track/index.html
	$(BIN)/hltfarm train --target event --signal $(word 1,$^) --background $(word 2,$^) --test-signal $(word 3,$^) --test-background $(word 4,$^) \
		--model $(MODELS)/track/track-mlp --name event-mlp --seed 1 --out $(@D) --overwrite

models: $(MODELS)/track/index.html $(MODELS)/event/index.html
	$(BIN)/hltfarm models list
	$(BIN)/hltfarm models show $(MODELS)/track/track-mlp
	$(BIN)/hltfarm models show $(MODELS)/event/event-mlp

wheel: venv
	$(PY) tests/packaging/check_wheel.py --work build/wheel --lock requirements.lock

# Strict: a link that leads nowhere, or a page that would load something from another server, ends it.
docs: venv types
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "build/site/index.html; with search: $(PY) -m http.server -d build/site"

lock: venv
	$(PY) deploy/lock.py

dashboards: venv
	$(PY) -m deploy.grafana.make

# Grafana's own types of dashboards and panels, as TypeScript has them; npm fetches them into build/.
dashboards-check: dashboards
	deploy/grafana/schema/check.sh build/grafana-schema

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info

# Containers (docs/containers.md). BUILD_ARGS: what else `docker build` is to be told, such as an index of your own.
PROFILE ?= cpu
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION := $(shell git rev-parse --short HEAD 2>/dev/null)
IMAGES ?= control ingest worker-cpu loadgen
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
BUILD_ARGS ?=

images:
	for image in $(IMAGES); do DOCKER_BUILDKIT=1 docker build $(BUILD_ARGS) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
		-f docker/Dockerfile --target $$image -t hltfarm/$$image:$(VERSION) . || exit; done

up:
	$(COMPOSE) -p hltfarm -f deploy/compose.yml --profile $(PROFILE) --profile monitoring up -d

# The run is stopped first, so that its end and ledger are in the registry; where that cannot be (no run, a token is needed) the farm drains all the same.
down:
	-$(COMPOSE) -p hltfarm -f deploy/compose.yml exec -T control hltfarm ctl stop
	$(COMPOSE) -p hltfarm -f deploy/compose.yml --profile $(PROFILE) --profile monitoring --profile loadgen down

test-containers: venv
	HLTFARM_TEST_CONTAINERS=1 $(PY) -m pytest tests/containers -v -s -rs $(PYTEST_ARGS)
