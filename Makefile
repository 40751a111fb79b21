PY := .venv/bin/python
READY := .venv/.ready
TREE := build/tree/baton
ROOMS := common coordinator device_client edge_server
EXTRAS := edge,device,coordinator,dev,bench
TORCH_INDEX ?=
FAMILY ?= runs/scenes/family
TRAIN_WHEELS := diffusers safetensors pillow psutil platformdirs pydantic pydantic_core annotated_types typing_inspection typer annotated_doc shellingham rich pygments markdown_it_py mdurl click

# The prompt reaches the shell through the environment, untouched by make and by quoting.
export DEMO_PROMPT := $(value PROMPT)
unexport PROMPT

.DEFAULT_GOAL := help
.PHONY: help setup demo secrets test check bench bench-accel bench-engine bench-world bench-control bench-serve format proto train-scenes train-wheels clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## make .venv and install everything (TORCH_INDEX=URL: where to find another torch build)

$(READY): pyproject.toml setup.py constraints.txt
	@$(PY) -c '' 2>/dev/null || { \
	  for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    "$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	      && exec "$$python" -m venv --clear .venv; \
	  done; \
	  echo 'no Python 3.11 or newer with venv found: install one, or name it with PYTHON=/path' >&2; \
	  exit 1; }
	$(PY) -m pip install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') 'torch==2.13.0'
	$(PY) -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(READY) ## draw one picture with an edge, a device and a coordinator on this machine (PROMPT='...')
	@.venv/bin/baton demo $${DEMO_PROMPT:+-- "$$DEMO_PROMPT"}

secrets: $(READY) ## write certificates, tokens and keys for deploy/compose.yaml to deploy/secrets
	@$(PY) deploy/certificates.py deploy/secrets --host coordinator --host coordinator.core \
	  --host edge-1 --host edge-2 --edge edge-1 --edge edge-2 --device device-a --device device-b

test: $(READY) ## run the tests (ARGS='-k name')
	$(PY) -m pytest $(ARGS)

check: $(READY) $(TREE) ## stub drift, lint, format, types, imports; changes nothing
	$(PY) proto/generate.py --check
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	PYTHONPATH=build/tree .venv/bin/lint-imports

# The package as a tree of files, for tools that do not ask Python where its folders are.
$(TREE): Makefile
	@rm -rf $@ && mkdir -p $@
	@ln -s $(CURDIR)/proto/gen/baton/__init__.py $(CURDIR)/proto/gen/baton/v1 $(addprefix $(CURDIR)/,$(ROOMS)) $@

bench: $(READY) ## measure relays: score, time, the edge's bill (hours at first; what was drawn is kept; ARGS=--quick) and write it to bench/
	$(PY) -m tests.bench.relay $(ARGS)

bench-accel: $(READY) ## measure the accelerations against diffusers (hours at first; what was drawn is kept) and write it to bench/
	$(PY) -m tests.bench.accel $(ARGS)

bench-engine: $(READY) ## measure what the engine costs beside its model (six minutes on two idle cores) and write it to bench/
	$(PY) -m tests.bench.engine $(ARGS)

bench-world: $(READY) ## measure what each step of scenes decides, and who may take it, and write it to bench/
	$(PY) -m tests.bench.world $(ARGS)

bench-control: $(READY) ## measure what a picture costs beside its drawing (a minute; ARGS='--label NAME') and write it to bench/
	$(PY) -m tests.bench.control_plane $(ARGS)

bench-serve: $(READY) ## measure the edge under load beside what others serve with (two hours; what was measured is kept; ARGS=--quick) and write it to bench/
	$(PY) -m tests.bench.serving $(ARGS)

format: $(READY) ## sort the imports, apply the safe fixes, format
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

proto: $(READY) ## write the stubs in proto/gen anew
	$(PY) proto/generate.py

train-scenes: $(READY) ## train the built-in family (ARGS='--minutes 10 --device cuda'), write it and its card to FAMILY
	$(PY) -m baton.common.families.scenes.training train $(ARGS)
	$(PY) -m baton.common.families.scenes.training export --out $(FAMILY)
	$(PY) -m baton.common.families.scenes.training card --folder $(FAMILY) --bench $(FAMILY)

train-wheels: $(READY) ## collect what deploy/train.sh needs beside torch in .whl (WHEEL_PYTHON=3.12)
	$(PY) -m pip download --quiet -d .whl -c constraints.txt --no-deps --only-binary :all: \
	  --python-version $(or $(WHEEL_PYTHON),3.12) $(TRAIN_WHEELS)

clean: ## remove build results and caches; .venv and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
