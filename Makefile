.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
TOOLS := .venv-tools/bin
STAMP := .venv/.installed
DATA ?=
QUICK ?=
SOAK ?=
MISSING ?=
JOBS ?= 2

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-8s %s\n", $$1, $$2}'

setup: $(STAMP) .venv-tools/.installed ## create the environments (.venv, .venv-tools)

# torch goes first: its pinned version is the CPU build, anything else may drag in CUDA.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -e '.[serve,control,train,dev]'
	touch $@

# Apart from .venv: protoc of the oldest protobuf supported, and a Triton client with its own protobuf pin.
.venv-tools/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-tools
	$(TOOLS)/pip install -q --disable-pip-version-check 'grpcio-tools==1.76.0' 'tritonclient[grpc]' numpy
	touch $@

protos: .venv-tools/.installed ## generate protobuf code from protos/*.proto
	$(TOOLS)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. protos/*.proto
	$(TOOLS)/python -m grpc_tools.protoc -I . --grpc_python_out=. protos/decide.proto protos/traffic.proto protos/control.proto protos/governance.proto protos/oip.proto protos/artf_services.proto protos/rtb.proto protos/learning.proto protos/observe.proto

fmt: setup ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: setup protos ## lint, types, and that generated code is current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git diff --exit-code -- 'protos/*_pb2*'

# Tests start many processes: compiled files are kept for them. What runs alone collects no other tests' libraries.
test: export PYTHONDONTWRITEBYTECODE =
test: setup ## run every test, JOBS at a time; those that need the machine for themselves afterwards
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m 'not alone'
	$(BIN)/python -m pytest -o timeout=1700 -o faulthandler_timeout=1900 -m alone $$(grep -rl --include='test_*.py' mark.alone tests)

demo: setup ## tell the whole story on this machine (DATA=file.jsonl for your own labelled texts)
	$(BIN)/python -m controlplane.demo $(if $(DATA),--data $(DATA))

up: setup ## run all three processes in var/local, set up on first use
	test -f var/local/interlock.toml || $(BIN)/interlock init var/local
	$(BIN)/interlock up --config var/local/interlock.toml

bench: setup .venv/.bench ## measure beside other servers, 10 to 15 minutes (QUICK=1 for 3, SOAK=1000000 for the long run)
	$(BIN)/python -m perf.interpreter .venv-bench  # deployments have an optimised build; pyenv's is none
	.venv-bench/bin/python -m perf.bench $(if $(QUICK),--quick) $(if $(SOAK),--soak $(SOAK))

results: setup ## train specialists on published sets (../shared/data) and measure them, an hour (MISSING=1 goes on)
	$(BIN)/python -m perf.specialists $(if $(MISSING),--missing)
	$(BIN)/python -m perf.auction

.venv/.bench: $(STAMP)
	$(BIN)/pip install -q --disable-pip-version-check -e '.[bench]'
	touch $@

.PHONY: help setup protos fmt check test demo up bench results
