# The two commands that matter: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPARE_VENV := .venv-compare
COMPARE_BIN := $(COMPARE_VENV)/bin
COMPARE_READY := $(COMPARE_VENV)/.ready
DOCS_VENV := .venv-docs
DOCS_BIN := $(DOCS_VENV)/bin
DOCS_READY := $(DOCS_VENV)/.ready

SEED ?=
TRIALS ?= 60

.PHONY: demo test test-slow families test-faults test-gpu test-compare check lint types docs bench bench-gpu
.PHONY: setup setup-compare clean

demo: setup ## the whole study of the miniature, from generation to report
	$(BIN)/diffusae run experiment=miniature

test: setup ## the tests (CPU, no network); the end tells what was skipped, such as browser tests without chromium
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -rfEs

test-slow: setup ## more model families, launchers, several processes and kills; the benchmarks have `make bench`
	$(BIN)/python -m pytest -m slow --ignore=tests/benchmarks

families: setup ## the shared claims on every family of models; writes the table that docs/reference/models.md shows
	FAMILIES_TABLE=docs/reference/models-tested.json $(BIN)/python -m pytest tests/families -m "slow or not slow"

# Some 40 minutes on two slow cores, then some 40 for the fuzzed readers with 5,000 inputs each.
test-faults: setup ## kill, damage and fill small studies; SEED= and TRIALS= repeat a campaign, its table goes into the docs
	PYTHONPATH=src:tests $(BIN)/python -m faults --trials $(TRIALS) $(if $(SEED),--seed $(SEED)) --write-page

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

# The second line runs tests that are skipped where accelerate, peft, gguf or torchao are missing.
test-compare: setup-compare ## our exports and imports against the libraries they are for; our Triton kernels without a GPU
	TRITON_INTERPRET=1 $(COMPARE_BIN)/python -m pytest -m compare tests/compare tests/sae/test_triton_kernels.py
	$(COMPARE_BIN)/python -m pytest -m "slow or not slow" -rs $(addprefix tests/backbone/test_,offloading.py quantizing.py component_sizes.py) tests/capture/test_adapted.py

check: lint types test ## what CI runs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright --threads 2

docs: $(DOCS_READY) ## the documentation as a site in site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS_BIN)/python -m mkdocs build --strict

bench: setup-compare ## ratios of our parts to their limits and to public libraries; they are kept in docs/data/
	BENCH_DATA=docs/data $(COMPARE_BIN)/python -m pytest tests/benchmarks -m slow -s

bench-gpu: setup-compare ## the same for the training step, for feeding it and for collecting, on a CUDA device
	BENCH_DATA=docs/data $(COMPARE_BIN)/python -m pytest tests/benchmarks/test_gpu_step.py tests/benchmarks/test_gpu_feeding.py -m gpu -s

setup: $(READY)

# torch first and by its exact version, or a dependency would pull a CUDA build of several gigabytes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

setup-compare: $(COMPARE_READY)

# An environment of its own: other SAE libraries bring some eighty packages, which no other command needs.
$(COMPARE_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(COMPARE_VENV)
	$(COMPARE_BIN)/python -m pip install --quiet --upgrade pip
	$(COMPARE_BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(COMPARE_BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,compare]"
	# A torchvision for a CUDA torch breaks transformers here; only overcomplete's vision models use it.
	$(COMPARE_BIN)/python -c "import torchvision" 2>/dev/null || $(COMPARE_BIN)/python -m pip uninstall --quiet --yes torchvision
	touch $(COMPARE_READY)

# An environment of its own and small: the pages are made from the sources, which are read and not run.
$(DOCS_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_BIN)/python -m pip install --quiet --upgrade pip
	$(DOCS_BIN)/python -m pip install --quiet --constraint constraints.txt mkdocs-material "mkdocstrings[python]"
	touch $(DOCS_READY)

clean:
	rm -rf $(VENV) $(COMPARE_VENV) $(DOCS_VENV) site outputs/miniature
