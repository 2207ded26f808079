# The tasks of developers and CI. They need Python 3.11 or newer with venv, make and a package index. `make` alone lists
# the targets.
.DEFAULT_GOAL := help
.NOTPARALLEL:  # the targets share one virtual environment

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# The stamps contain the folder's checksum: a copied virtual environment has the paths of another folder.
HERE := $(shell pwd | cksum | cut -d' ' -f1)
MADE := $(VENV)/.made-$(HERE)
RUNTIME := $(VENV)/.runtime-$(HERE)
TESTING := $(VENV)/.testing-$(HERE)

NEW_ENOUGH := -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p $(NEW_ENOUGH) && echo $$p && break; done)

.PHONY: help install run test check docs bench faults failovers soak fuzz hostile lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

install: $(RUNTIME) ## Create .venv with the packages of callwatch

run: $(RUNTIME) ## Run a demonstration with a simulated upstream; Ctrl-C stops everything
	@$(VENV)/bin/callwatch up $(ARGS)

# Byte code is always written; otherwise every process compiles the same files.
test: $(TESTING) ## Run every tier of tests; ARGS="-m unit" narrows it
	@PYTHONDONTWRITEBYTECODE= $(PY) -m pytest tests -n 5 --dist loadfile --no-loadscope-reorder \
		--cov --cov-report=term $(ARGS)

check: $(TESTING) ## Lint, formatting, types, import layers, the documentation
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/oxlint --quiet --deny-warnings gateway/static
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --site-dir $(CURDIR)/$(VENV)/site

docs: $(TESTING) ## Serve the documentation on http://127.0.0.1:8000/
	@$(PY) -m docs.generate
	@$(PY) -m mkdocs serve --dev-addr 127.0.0.1:8000 $(ARGS)

bench: $(TESTING) ## Measure CPU and lateness of a poll
	@$(PY) -m benchmarks.polls $(ARGS)

faults: $(TESTING) ## Kill workers and Redis, disconnect upstream; measure the effect on watched calls
	@$(PY) -m benchmarks.faults $(ARGS)

failovers: $(TESTING) ## Replace the primary of Redis again and again; measure the effect on watched calls and dials
	@$(PY) -m benchmarks.failovers $(ARGS)

soak: $(TESTING) ## Search for faults that break a rule, a million new steps; stop and partition Redis for longer
	@SOAK_STEPS=1000000 $(PY) -m pytest tests/faults/test_simulation.py tests/faults/test_redis_away.py \
		tests/faults/test_exhaustive.py tests/faults/test_partition.py \
		-k "random_faults or stalls or interleaving or primaries" -n 2 $(ARGS)

fuzz: $(TESTING) ## Push a hundred thousand hostile entries into the trigger queue; ARGS="--entries 1000000"
	@$(PY) -m benchmarks.fuzz_triggers $(ARGS)

hostile: $(TESTING) ## Answer workers as a hostile upstream and a hostile receiver of notices would; ARGS="--seed 2"
	@$(PY) -m benchmarks.fuzz_answers $(ARGS)
	@$(PY) -m benchmarks.fuzz_receiver $(ARGS)
	@$(PY) -m benchmarks.large_answers

# Existing pins are kept where they fit; without the two files every package is the newest.
UV_COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header
lock: $(TESTING) ## Write both lock files from pyproject.toml
	@test -x $(VENV)/bin/uv || $(PIP) install --quiet uv
	@printf 'setuptools>=77\nuv\n' | $(UV_COMPILE) --extra test pyproject.toml - -o requirements-test.lock
	@echo 'setuptools>=77' | $(UV_COMPILE) --extra ops --extra gateway --extra demo -c requirements-test.lock pyproject.toml - \
		-o requirements.lock

clean: ## Remove .venv and the files of tools
	@rm -rf $(VENV) *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the virtual environment ---------------------------------------------------------------------------------------

# A sound virtual environment is kept; an incomplete, old or copied one is created again.
$(MADE):
	@if ! grep -qsF '$(CURDIR)/$(VENV)' $(VENV)/bin/activate || ! $(PY) $(NEW_ENOUGH) \
		|| ! $(PIP) --version >/dev/null 2>&1; then \
		"$(PYTHON)" $(NEW_ENOUGH) || { echo 'callwatch needs Python 3.11 or newer with venv and found' \
			'$(or $(PYTHON),none): name one with make PYTHON=/path/to/python3' >&2; exit 1; }; \
		echo 'making $(VENV) …'; \
		"$(PYTHON)" -m venv --clear $(VENV); \
	fi
	@touch $@

$(RUNTIME): requirements.lock requirements-test.lock pyproject.toml $(MADE)
	$(call install_lock,requirements.lock)
	@touch $@

$(TESTING): requirements.lock requirements-test.lock pyproject.toml $(MADE)
	$(call install_lock,requirements-test.lock)
	@touch $(RUNTIME) $@

# uv is six times faster than pip, but does not read pip's settings: if pip has another index configured, or uv cannot
# reach one, pip installs the same files. Both check the hashes. Byte code is written here, not by the first workers.
define install_lock
	@echo 'installing $(1) (well under a minute) …'
	@sed -n '/^uv==/,/[^\\]$$/p' requirements-test.lock >$(VENV)/uv.lock
	@{ ! $(PIP) config list | grep '[.]index-url=' >/dev/null \
		&& $(PIP) install -qq --require-hashes --only-binary :all: -r $(VENV)/uv.lock \
		&& $(VENV)/bin/uv pip install --quiet --python $(PY) --require-hashes --no-deps --compile-bytecode -r $(1); \
	} || { echo '… with pip'; $(PIP) install -qq --require-hashes --no-deps -r $(1); }
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
endef
