# make demo: the main job.  make test: everything that must hold.  Needs Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
# pyenv's own commands work only for the version that is switched on.
NEWEST ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python3.12) python3.12)
UV := $(shell command -v uv 2>/dev/null)
RUN := $(VENV)/bin/python -m

.PHONY: help demo test test-newest check bench lock readme clean

help:
	@echo "make demo         train, compress and compare on handwritten digits; writes a report"
	@echo "make test         linters, types, layers and the whole test suite"
	@echo "make test-newest  the suite on the newest Python and JAX (needs python3.12)"
	@echo "make bench        the benchmarks of experiments/bench"
	@echo "make readme       puts the newest demo's table into README.md"
	@echo "make lock         resolves requirements again"

# $(call install,lock file): a virtual environment with the locked versions.
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
	@touch $@
endef

$(VENV)/.demo: requirements.lock pyproject.toml
	$(call install,requirements.lock)

$(VENV)/.test: requirements-dev.lock pyproject.toml
	$(call install,requirements-dev.lock)

demo: $(VENV)/.demo
	$(VENV)/bin/jax-compress compare configs/digits.yaml

check: $(VENV)/.test
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(VENV)/bin/ty check
	$(VENV)/bin/lint-imports

test: check
	$(RUN) pytest

test-newest:
	$(MAKE) VENV=.venv-newest PYTHON=$(NEWEST) .venv-newest/.test
	.venv-newest/bin/python -m pytest

bench: $(VENV)/.test
	$(RUN) experiments.bench.step
	$(RUN) experiments.bench.loops

readme: $(VENV)/.demo
	$(RUN) experiments.readme runs/digits

# Two locks, one resolution: what the demo needs, and what tests need on top.
LOCK = $(UV) pip compile pyproject.toml -q --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate
lock:
	$(LOCK) --extra report --extra data --extra tb -o requirements.lock
	$(LOCK) --extra dev -c requirements.lock -o requirements-dev.lock

clean:
	rm -rf .venv .venv-newest runs
