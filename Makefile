# Two commands do everything: `make demo` and `make test`. Both set up first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# Bytecode makes every import two to three times cheaper; a shell that forbids it must not win.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint types lock image sbom bench bench-gpu chaos clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Make .venv and install the locked set

$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "TAP Platform needs Python 3.11 or newer: make PYTHON=python3.11 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(STAMP): requirements.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip sync --python $(BIN)/python --compile-bytecode --require-hashes requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: $(STAMP) ## Train a tiny TAP on made scenes and show what it learned
	$(BIN)/tap demo $(DEMO)

test: $(STAMP) ## Run all tests, or TESTS="tests/unit/test_cli.py"
ifdef TESTS
	$(BIN)/python -m pytest $(TESTS)
else
	$(BIN)/python -m pytest tests/unit -n 2 --dist loadfile
	$(BIN)/python -m pytest tests/integration tests/chaos
endif

test-long: $(STAMP) ## Run the tests that `make test` leaves out, for they take minutes
	$(BIN)/python -m pytest tests -m long

lint: $(STAMP) ## Check format and lint, the image's Dockerfile too
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/hadolint cluster/image/Dockerfile

types: $(STAMP) ## Check types
	$(BIN)/mypy

lock: | $(BIN)/uv ## Lock exact versions with hashes, without download addresses
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet --output-file requirements.lock

IMAGE ?= tap-platform:0.1.0
image: ## Build the image of clusters, IMAGE=REGISTRY/NAME:TAG; takes a container engine
	docker build --file cluster/image/Dockerfile --tag $(IMAGE) \
		--build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(date -u +%FT%TZ) $(BUILD) .

sbom: $(STAMP) ## Write what the image is made of, as CycloneDX, to dist/sbom.cdx.json
	mkdir -p dist
	$(BIN)/uv pip compile pyproject.toml --extra image --constraints requirements.lock --python-version 3.11 --python-platform linux --generate-hashes --no-annotate --no-header --quiet --output-file dist/image.txt
	$(BIN)/cyclonedx-py requirements dist/image.txt --pyproject pyproject.toml --mc-type application --output-reproducible --output-file dist/sbom.cdx.json

bench: $(STAMP) ## Measure the data stream and the model, side by side with the usual way
	$(BIN)/python tests/perf/data.py
	$(BIN)/python tests/perf/model.py

bench-gpu: $(STAMP) ## Measure training steps of the real sizes on a GPU, and where their time goes
	$(BIN)/python tests/perf/gpu.py $(BENCH)

chaos: $(STAMP) ## Break runs on a cluster of several hosts on this computer (docs/chaos.md)
	$(BIN)/python -m tests.chaos.run $(CHAOS)

clean: ## Remove .venv, caches, runs and made data
	rm -rf .venv runs data dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
