# Needs only make and Python 3.11 to 3.13: `make demo` and `make test` set up .venv by themselves.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
RUNTIME := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PROMETHEUS := $(VENV)/.prometheus
TEST_PROGRAMS := chromium

.PHONY: help demo test test-programs torture check format bench check-speed clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

demo: $(RUNTIME) ## drive a shop's real purchases through customer actors (store: eventray-demo.db)
	@$(VENV)/bin/eventray demo

test: export PYTHONDONTWRITEBYTECODE = # hundreds of processes would compile it all anew
test: $(DEV) $(PROMETHEUS) test-programs ## run all tests: those in which seconds count alone, then the others in three processes
	@$(VENV)/bin/python -m pytest -m alone $$(grep -rl --include "*.py" pytest.mark.alone tests); alone=$$?; \
	$(VENV)/bin/python -m pytest -m "not alone" --numprocesses 3 --dist loadfile --no-loadscope-reorder && exit $$alone

test-programs: # what tests run besides Python, from Debian's packages; without one, the tests that need it fail and say so
	@for program in $(TEST_PROGRAMS); do \
		if command -v $$program > /dev/null; then continue; fi; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
			echo "installing $$program, which tests need"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$program > /dev/null || true; \
		else \
			echo "$$program is not on this machine, and tests need it: apt-get install $$program, as root" >&2; \
		fi; \
	done

torture: $(DEV) ## kill, stop and restart all there is under load, then judge (SECONDS=60 SEED=any STORE="sqlite postgres")
	@for store in $(or $(STORE),sqlite postgres); do \
		$(VENV)/bin/python -m tests.torture --store $$store --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) || exit 1; \
	done

check: $(DEV) ## check format, lint, types, and that stored events stay readable
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/eventray schema check

format: $(DEV) ## format the code and sort its imports
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

bench: $(DEV) ## run all benchmarks beside the peers; write benchmarks/results, its plots, and README's table (17 minutes)
	@$(VENV)/bin/python -m benchmarks

check-speed: $(DEV) ## run benchmarks briefly, compare ratios to peers and drivers with benchmarks/floors.toml (2 minutes)
	@$(VENV)/bin/python -m benchmarks.check

clean: ## remove .venv, caches and the demo's store
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f eventray-demo.db* eventray-demo.read.db*

$(VENV)/bin/python:
	@for python in python3.11 python3.12 python3.13 python3; do \
		if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
			echo "setting up $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
		fi; \
	done; echo "Python 3.11, 3.12 or 3.13 is needed and none was found on PATH" >&2; exit 1

$(RUNTIME): pyproject.toml | $(VENV)/bin/python
	@echo "installing Eventray and what it needs into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(DEV): pyproject.toml | $(VENV)/bin/python
	@echo "installing Eventray and its development tools into $(VENV)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $(RUNTIME) $@

# Its programs are unpacked into .venv, not installed: no service is begun, and nobody need be root.
$(PROMETHEUS): | $(VENV)/bin/python
	@if ! { command -v prometheus && command -v promtool; } >/dev/null; then \
		echo "unpacking Debian's prometheus, for the tests of metrics, into $(VENV)"; \
		mkdir -p $(VENV)/prometheus && cd $(VENV)/prometheus && \
		{ apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } && \
		dpkg-deb -x prometheus_*.deb . || { \
			echo "prometheus can't be had here: the tests of metrics will fail; install it, and put it on PATH" >&2; exit 0; \
		}; \
	fi; touch $(CURDIR)/$@
