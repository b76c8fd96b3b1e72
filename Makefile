# The two commands of README.md are `make up` and `make test`; both set up everything they need.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
STATE ?= .state
MOUNT ?= mnt
HOURS ?= 1
BESIDE := tests/contract tests/crash tests/model tests/scenario tests/sim tests/unit
SCENARIOS ?=
SECONDS_EACH ?= 60

.PHONY: up down setup packages test check bench acceptance crash chaos clean man

setup: packages $(VENV)/.installed

packages:
	@sh packaging/packages.sh

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-virtualenv -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

up: setup
	$(BIN)/cfs up --state $(STATE) --mount $(MOUNT)

down:
	$(BIN)/cfs down --state $(STATE)

check: $(VENV)/.installed
	$(BIN)/ruff format --check cfs tests bench
	$(BIN)/ruff check cfs tests bench
	$(BIN)/mypy
	$(BIN)/pytest -q -n auto tests/unit tests/contract tests/scenario -m "not slow"

# Tests on mounts wait more than they compute: all others run beside them, at a lower priority.
test: setup
	@sh packaging/packages.sh test
	$(BIN)/ruff check cfs tests bench
	$(BIN)/mypy
	@nice -n 15 $(BIN)/pytest -p no:cacheprovider $(BESIDE) >$(VENV)/beside.log 2>&1 & beside=$$!; \
	$(BIN)/pytest tests $(addprefix --ignore=,$(BESIDE)); mounts=$$?; \
	wait $$beside; others=$$?; echo "$(BESIDE):"; cat $(VENV)/beside.log; \
	exit $$((mounts | others))

acceptance: setup
	@sh packaging/packages.sh test
	CFS_FULL_SIZE=1 $(BIN)/pytest tests/system

# Crash consistency, every crash of every sequence: hours. Interrupted and begun again, it goes on.
crash: $(VENV)/.installed
	$(BIN)/python -m tests.crash --length 1 --progress .crash/one.jsonl
	$(BIN)/python -m tests.crash --length 2 --progress .crash/two.jsonl

# Faults on real processes in network namespaces, a minute each: make chaos SCENARIOS="partition kill"
chaos: setup
	@sh packaging/packages.sh test
	$(BIN)/python -m tests.chaos --seconds $(SECONDS_EACH) $(SCENARIOS)

bench: setup
	$(BIN)/python -m bench.run --state $(STATE) --mount $(MOUNT)

man: $(VENV)/.installed
	$(BIN)/python -m cfs.cli.manual man

clean:
	@if mountpoint -q $(MOUNT); then \
	  echo "$(MOUNT) is mounted: run 'make down' first, then 'make clean'" >&2; exit 1; fi
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
