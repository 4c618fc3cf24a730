# Needs only Python 3.11+, git and make; everything else goes into .venv, or for the demo into .venv-demo, which is small.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BOT ?= restaurant
READY := $(VENV)/.ready
DEMO := .venv-demo
SITE := .venv-docs
PIP := python -m pip --disable-pip-version-check install --quiet
# On two processors, for a worker waits a third of its time, and in `make quick` most of it.
WORKERS := -n 4
# The slow tests come first (tests/conftest.py) and stay so. A file is one worker's.
BY_FILE := --dist loadfile --no-loadscope-reorder
# What is repeated as often as CHATKEEP_SOAK says.
SOAKED := acceptance/test_rows_b.py acceptance/test_rows_e.py acceptance/test_two_processes.py drivers/test_machine.py server/test_openapi.py
# Of the folders whose tests start servers, the files that say they need none.
RULES = $(shell grep -lr "^pytestmark = pytest.mark.rules" tests)
ALONE := bounded docstrings durations errors frames invariants kinds loading model offload secrecy
QUICK = $(addprefix tests/,auth channels conversation cookie drivers engine storage testing) $(ALONE:%=tests/test_%.py) $(RULES)
OLD := import sys; sys.exit(sys.version_info < (3, 11) and "chatkeep needs Python 3.11 or newer; try make PYTHON=python3.12")

# Without -m the second time: of a test that is collected alone, tests/conftest.py takes the one variant for the first.
tested = $(BIN)/python -m pytest $(WORKERS) $(BY_FILE) --ignore tests/test_house.py -m "$(1)" $(2) --durations=15 || { [ $$? = 1 ] && $(BIN)/python -m pytest --last-failed $(2); }

.PHONY: demo quick test long docs packaging load check bench bench-edges bench-peers bench-pin soak soak-move pin clean

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c '$(OLD)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEMO)/.ready: constraints-demo.txt pyproject.toml
	@$(PYTHON) -c '$(OLD)'
	@echo "Making $(DEMO), once: a Python environment of about 90 MB in this folder. rm -r $(DEMO) removes it."
	@$(PYTHON) -m venv $(DEMO)
	@echo "Downloading and installing chatkeep's server and what it needs, at pinned versions (32 packages) ..."
	@$(DEMO)/bin/$(PIP) --require-hashes -r constraints-demo.txt
	@$(DEMO)/bin/$(PIP) --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Done. $(DEMO)/bin/chatkeep is the command line; starting the demo ..."

demo: $(DEMO)/.ready  ## the main job: a restaurant bot with a chat page, on SQLite
	@$(DEMO)/bin/chatkeep demo $(BOT)

quick: $(READY)  ## what needs no server, no browser and no other program: rules, drivers on memory and SQLite, the engine on memory
	TEST_STORES=memory $(BIN)/python -m pytest $(WORKERS) --dist worksteal --hypothesis-profile quick -m "not server and not slow and not long" $(QUICK)

test: $(READY)  ## every test but the long ones and those of `make check`; what fails beside others has to pass alone
	$(call tested,not long)

long: $(READY)  ## the tests that `make test` leaves out: every kind of store, many kills and examples, clients from npm, proxies, older versions
	$(call tested,long or hypothesis,--hypothesis-profile long)

docs: $(SITE)/.ready  ## the documentation as a site in build/docs; a broken link is an error; needs no network once installed
	$(SITE)/bin/zensical build --strict

$(SITE)/.ready: constraints-docs.txt
	@$(PYTHON) -c '$(OLD)'
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/$(PIP) --require-hashes -r constraints-docs.txt
	@touch $@

packaging: $(READY)  ## each extra alone, the container's installation, the lowest versions, the peers' pins; wants an index
	$(BIN)/python -m tests.packaging $(NAMES)

check: $(READY)  ## linter, formatter, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py

bench: $(READY)  ## measures every engine, beside the floors and the peers that are there; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks $(BENCH)

bench-edges: $(READY)  ## stores without a server beside their floors, cold starts, a move of 100,000; into benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks.edges --record
	$(BIN)/python -m benchmarks.cold --record
	$(BIN)/python -m benchmarks.moving 100000 --record

bench-peers: $(READY)  ## installs the peers that `make bench` compares with; Node ones where there is npm
	$(PYTHON) -m venv benchmarks/.peers
	benchmarks/.peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r benchmarks/peers.txt
	benchmarks/.peers/bin/python -m pip check
	-cd benchmarks/peers && npm install --ignore-scripts --no-package-lock --no-audit --no-fund

bench-pin:  ## after a change of the peers; needs uv
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--upgrade --group peers -o benchmarks/peers.txt

load: $(READY)  ## a thousand simulated customers, instances and databases that are killed; then event streams, and replies
	$(BIN)/python -m tests.support.simulation build/simulation postgresql --channel whatsapp
	$(BIN)/python -m benchmarks.streams
	$(BIN)/python -m benchmarks.pieces

soak: $(READY)  ## the kill tests on every engine, for two hours
	CHATKEEP_KILLS=1500 $(BIN)/python -m pytest tests/acceptance/test_kill.py -m long -s --timeout 7200
	CHATKEEP_STREAM_KILLS=500 $(BIN)/python -m pytest tests/acceptance/test_kill_streams.py -s
	CHATKEEP_SOAK=10 $(BIN)/python -m pytest $(addprefix tests/,$(SOAKED)) -k "b1 or e9 or two_processes or machine or description" --timeout 3600

soak-move: $(READY)  ## ten thousand conversations go from SQLite through PostgreSQL, Redis and Durable Objects under load, and the move is killed on the way
	CHATKEEP_MOVE_CONVERSATIONS=10000 $(BIN)/python -m pytest tests/acceptance/test_move.py -s -k under_load

pin:  ## after a change of dependencies; needs uv
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--upgrade --group dev --all-extras pyproject.toml -o constraints.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--group demo --extra server -c constraints.txt pyproject.toml -o constraints-demo.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--upgrade --group docs -o constraints-docs.txt

clean:
	rm -rf $(VENV) $(DEMO) $(SITE) build/docs .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
