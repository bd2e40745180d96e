# Two commands matter: `make repro` and `make test`. The first one to run installs the packages.

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && command -v $$p && break; done)
VENV := .venv
UV := uv==0.13.9
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help repro test test-long setup lint app plan report mlflow bench bench-gpu crash-matrix elsewhere fuzz preset \
	lock audit notice

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/'

repro: $(READY) ## run every stage whose inputs changed (dvc repro)
	dvc repro

PYTEST := OMP_NUM_THREADS=1 pytest --numprocesses auto --maxprocesses 4 --no-loadscope-reorder

test: lint ## ruff, mypy and the tests, except the longest
	$(PYTEST) --dist loadfile -m "not long" tests/e2e tests

test-long: $(READY) ## the tests that take minutes each: tutorial, photos, other places, experiments
	$(PYTEST) -m long tests/e2e tests/test_ray_stages.py

fuzz: $(READY) ## damaged images and archives for a minute; make fuzz SECONDS=3600 for an hour
	python -m tests.tools.fuzz --seconds $(or $(SECONDS),60)

setup: $(READY) ## create the virtual environment with the locked packages

lint: $(READY) ## ruff, mypy and the words to avoid
	ruff check
	ruff format --check
	mypy
	pytest --quiet --no-header --no-summary tests/repository/test_prose.py

app: $(READY) ## serve models/export at http://127.0.0.1:7860
	python -m app

plan: $(READY) ## estimate a run: make plan, or make plan P=rtx3090
	@python -m finetune.planning $(if $(P),presets/$(P).yaml)

report: $(READY) ## write the evaluation of the last run to report.html
	python -m report

mlflow: $(READY) ## show all trainings at http://127.0.0.1:5000
	MLFLOW_DISABLE_TELEMETRY=true mlflow ui --backend-store-uri sqlite:///mlflow.db --port 5000

# PHOTOS: a folder with COCO's and Flickr8k's archives, one subfolder each. SCRATCH: a folder with 20 GB of free space;
# takes an hour. SCRIPT: diffusers' train_text_to_image.py. Benchmarks without their input are skipped.
bench: $(READY) ## rerun the benchmarks: make bench PHOTOS=... SCRATCH=... SCRIPT=...
	python -m bench.first_use
	python -m bench.frechet
	python -m bench.app_latency
	python -m bench.train_speed $(if $(SCRIPT),--script $(SCRIPT))
	$(if $(PHOTOS),python -m bench.preprocess_speed $(PHOTOS))
	$(if $(SCRATCH),python -m bench.data_scale $(SCRATCH))
	$(if $(SCRATCH),python -m bench.scaling $(SCRATCH)/scaling)
	$(if $(SCRATCH),python -m bench.noop_speed $(SCRATCH) --prepare)
	$(if $(SCRATCH),python -m bench.noop_speed $(SCRATCH))
	python -m bench.report

notice: $(READY) ## write the packages' licenses, as they declare them, to NOTICE.md
	python -m report.licenses

bench-gpu: $(READY) ## measure training on this machine's GPU: bench/results/gpu.json
	python -m bench.gpu
	python -m bench.report

crash-matrix: $(READY) ## kill, starve and lock out every stage, then complete it: bench/results/crashes.json, an hour
	python -m tests.tools.crashes

elsewhere: $(READY) ## run the committed experiment as another user, path and language: the same dvc.lock
	python -m tests.tools.elsewhere

preset: ## switch params.yaml: make preset P=rtx3090 (FORCE=1 discards your edits)
	@test -f "presets/$(P).yaml" || { echo "error: no preset '$(P)'; known: $(patsubst presets/%.yaml,%,$(wildcard presets/*.yaml))"; exit 1; }
	@for preset in presets/*.yaml; do cmp -s "$$preset" params.yaml && same=1; done; \
	test -n "$${same}$(FORCE)" || { echo "error: params.yaml has edits that no preset holds; save them, or add FORCE=1 to drop them"; exit 1; }
	cp "presets/$(P).yaml" params.yaml

$(READY): requirements.lock
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "error: Python 3.11 or newer is needed; name it with make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV), once"
	pip install --quiet $(UV)
	uv pip install --quiet --requirement requirements.lock
	@touch $@

# CUDA's packages are left out of the lock and to torch, which pins them: so one lock serves machines with and without a
# GPU. The extra hash is that of PyTorch's own CPU build for Python 3.11 on x86-64 Linux, which PyPI does not have.
CUDA_PACKAGES := nvidia-(?!ml-py)|cuda-|triton
TORCH_CPU := sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command 'make lock'
lock: $(READY) ## resolve requirements.in into requirements.lock, with the sha256 of every file
	cuda=$$($(COMPILE) --upgrade requirements.in | grep -oP '^($(CUDA_PACKAGES))[a-z0-9-]*'); \
	$(COMPILE) --upgrade --generate-hashes $$(printf -- '--no-emit-package %s ' $$cuda) \
		--output-file requirements.lock requirements.in
	sed -i -E 's/^(torch==.*) \\$$/\1 \\\n    --hash=$(TORCH_CPU) \\/' requirements.lock

# --strict also fails on packages that the advisory service does not know.
# PYSEC-2026-2447, in DVC's diskcache, is fixed in no version: SECURITY.md says what to do.
audit: $(READY) ## list the installed packages in sbom.json (CycloneDX) and known vulnerabilities
	rm -rf .lock-venv
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/pip install --quiet pip-audit==2.10.1 cyclonedx-bom==7.5.0
	.lock-venv/bin/cyclonedx-py environment --output-reproducible --output-file sbom.json $(VENV)
	.lock-venv/bin/pip-audit --strict --no-deps --disable-pip --ignore-vuln PYSEC-2026-2447 \
		--requirement requirements.lock
	rm -rf .lock-venv
