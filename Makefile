# make demo: the main job.  make test: everything that must hold.  Needs Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
# pyenv's own commands work only for the version that is switched on.
NEWEST ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python3.12) python3.12)
UV := $(shell command -v uv 2>/dev/null)
RUN := $(VENV)/bin/python -m

# Of torch, pip's own settings choose the build (CPU or CUDA), so there is no hash of it.
TORCH ?= torch==2.13.0

.PHONY: help demo study test test-all test-newest test-frameworks check bench bench-peers lock readme clean

help:
	@echo "make demo         train, compress and compare on handwritten digits; writes a report"
	@echo "make study        do claims about orders of techniques hold? 21 rows, 20 seeds"
	@echo "make test         linters, types, layers and the test suite; test-all: its slow tests too"
	@echo "make test-newest  the suite on the newest Python and JAX (needs python3.12)"
	@echo "make bench        the benchmarks of experiments/bench; bench-peers: those against peers only"
	@echo "make test-frameworks  models of every framework, Keras and torch too"
	@echo "make readme       puts the newest demo's table into README.md"
	@echo "make lock         resolves requirements again"

# $(call install,lock file,more): a virtual environment with the locked versions, and
# with what pip finds for `more`.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11. Run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing $(1) into $(VENV)"
	@if [ -n "$(UV)" ]; then \
	  $(UV) venv -q --allow-existing --python "$$(command -v $(PYTHON))" $(VENV) && \
	  $(UV) pip install -q --python $(VENV)/bin/python -r $(1) && \
	  $(UV) pip install -q --python $(VENV)/bin/python --no-deps -e . ; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(VENV)/bin/python -m pip install -q -r $(1) && \
	  $(VENV)/bin/python -m pip install -q --no-deps -e . ; \
	fi
	$(if $(2),@$(PYTHON) -m pip --python $(VENV)/bin/python install -q $(2))
	@touch $@
endef

$(VENV)/.demo: requirements.lock pyproject.toml
	$(call install,requirements.lock)

$(VENV)/.test: requirements-dev.lock pyproject.toml
	$(call install,requirements-dev.lock)

$(VENV)/.frameworks: requirements-frameworks.lock pyproject.toml
	$(call install,requirements-frameworks.lock,$(TORCH))

demo: $(VENV)/.demo
	$(VENV)/bin/jax-compress compare configs/digits.yaml

study: $(VENV)/.demo
	$(VENV)/bin/jax-compress compare configs/study.yaml

check: $(VENV)/.test
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(VENV)/bin/ty check
	$(VENV)/bin/lint-imports

# One worker per core; a file stays with one, so that its fixtures are made once.
test: check
	$(RUN) pytest -n auto --dist loadfile -m "not slow"

test-all: check
	$(RUN) pytest -n auto --dist loadfile --hypothesis-profile=deep

test-newest:
	$(MAKE) VENV=.venv-newest PYTHON=$(NEWEST) .venv-newest/.test
	.venv-newest/bin/python -m pytest -n auto

# A framework that is missing fails here; in `make test` Keras and torch are skipped.
# Every model of every one is trained and exported; SELECT="keras or torch" is shorter.
test-frameworks:
	$(MAKE) VENV=.venv-frameworks .venv-frameworks/.frameworks
	FRAMEWORKS_REQUIRED=1 KERAS_BACKEND=jax .venv-frameworks/bin/python -m pytest \
	  tests/frameworks $(if $(SELECT),-k "$(SELECT)")

bench: $(VENV)/.test bench-peers
	$(RUN) experiments.bench.step
	$(RUN) experiments.bench.lowering
	$(RUN) experiments.bench.loops
	$(RUN) experiments.bench.tracing
	$(RUN) experiments.bench.threshold
	$(RUN) experiments.bench.mask_update
	$(RUN) experiments.bench.seeds
	$(RUN) experiments.bench.dry_run

# The peers' environment. torch's CPU build is enough: with uv, UV_TORCH_BACKEND=cpu.
.venv-peers/.peers: VENV = .venv-peers
.venv-peers/.peers: experiments/bench/peers/requirements.txt
	$(call install,$<)

# ResNet-8 needs its data: JAX_COMPRESS_DATA, see experiments/data.py.
bench-peers: $(VENV)/.test .venv-peers/.peers
	$(RUN) experiments.bench.peers --peers_python=.venv-peers/bin/python
	$(RUN) experiments.bench.resnet8 .venv-peers/bin/python

readme: $(VENV)/.demo
	$(RUN) experiments.readme runs/digits

# Three locks, one resolution: what the demo needs, what tests need on top, and what the
# heavy frameworks need on top of that (without torch, see TORCH).
LOCK = $(UV) pip compile pyproject.toml -q --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate
lock:
	$(LOCK) --extra report --extra data --extra tb -o requirements.lock
	$(LOCK) --extra dev -c requirements.lock -o requirements-dev.lock
	$(UV) pip compile experiments/bench/peers/requirements.in -q --universal --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	  | grep -vE '^(cuda|nvidia|triton)' > experiments/bench/peers/requirements.txt
	$(LOCK) --extra dev --extra keras --extra torchax -c requirements-dev.lock \
	  -o requirements-frameworks.lock

clean:
	rm -rf .venv .venv-newest .venv-frameworks .venv-peers runs
