# Two commands do everything on a machine that has Python 3.10 or newer, make and a C compiler:
#
#     make serve     an echo server on ws://127.0.0.1:8765, with a page to try it
#     make test      the tests
#
# What they need goes into .venv, which the first of them makes. No system package is touched.

PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8765
ARGS ?=

RUN := $(VENV)/bin/python
# Setuptools warns everybody who asks for an editable install that it is one.
INSTALL := PYTHONWARNINGS=ignore $(RUN) -m pip install --quiet --disable-pip-version-check
# What an editable install has to be repeated for; changed Python files need nothing.
SOURCES := pyproject.toml build_ffi.py $(wildcard csrc/*.[ch] csrc/arch/*.[ch])

.PHONY: help serve test coverage lint fmt sanitize fuzz autobahn wheel clean
.DELETE_ON_ERROR:

help:
	@echo "make serve      an echo server on ws://$(HOST):$(PORT) (HOST=, PORT=)"
	@echo "make test       the tests (ARGS='-k name' is passed on to pytest)"
	@echo "make coverage   fails if no test reaches a line or a branch of the core, and says which"
	@echo "make lint       ruff, mypy --strict, clang-format, compiler warnings as errors"
	@echo "make fmt        rewrites the code in the one format"
	@echo "make sanitize   the C tests under the address and undefined-behaviour sanitizers"
	@echo "make fuzz       every fuzz target for a minute (FUZZ_SECONDS=600: for ten)"
	@echo "make autobahn   the conformance suite"
	@echo "make wheel      a source archive and a wheel in dist/"
	@echo "make clean      removes everything that was made here, .venv included"

serve: $(VENV)/.bare
	@exec $(RUN) -m zcws serve --echo --host $(HOST) --port $(PORT)

test: $(VENV)/.test
	$(RUN) -m pytest $(ARGS)

coverage: $(VENV)/.test
	@PYTHON=$(RUN) bash .ci/coverage.sh $(ARGS)

lint:
	@PYTHON=$(PYTHON) bash .ci/lint.sh

fmt:
	@PYTHON=$(PYTHON) bash .ci/fmt.sh

sanitize:
	@PYTHON=$(PYTHON) bash .ci/sanitize.sh

fuzz:
	@PYTHON=$(PYTHON) bash .ci/fuzz.sh

autobahn: $(VENV)/.test
	@bash .ci/autobahn.sh

wheel: $(VENV)/.pip
	$(INSTALL) build
	$(RUN) -m build

clean:
	rm -rf $(VENV) .tools build dist zcws.egg-info zcws/_kernel.*.so zcws/_kernel.*.pyd
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage
	find . -name __pycache__ -prune -exec rm -rf {} +

# ---- .venv: .pip is the empty environment, .bare has zcws in it, .test all that the tests need ----

$(VENV)/.pip:
	@$(PYTHON) .ci/preflight.py
	@echo "making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV) 2>/dev/null || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
		&& $(PYTHON) -m pip --python $(RUN) install --quiet pip; }
	@touch $@

$(VENV)/.bare: $(VENV)/.pip $(SOURCES)
	@echo "installing zcws"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.pip $(SOURCES)
	@echo "installing zcws and what its tests need"
	@$(INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.bare
