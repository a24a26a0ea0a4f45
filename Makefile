# Every target sets up what it needs: the virtual environment, the dependencies and the servers that the tests talk to.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BROKER := .servers/kafka/.ready

.PHONY: demo test check bench figures faults repl clean

demo: $(READY)
	$(BIN)/forebay demo

test: $(READY) $(BROKER)
	$(BIN)/python -m pytest -m "not faults" -n auto --maxprocesses 4 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layout.py

bench: $(READY)
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only
	$(BIN)/python -m bench.nexmark --queries q0,q1,q3,q4,q9,q18,q19,q20

# The tables of the README. Nothing else should run meanwhile; about an hour.
figures: $(READY) $(BROKER)
	$(BIN)/python -m bench.nexmark --queries generator,q0,q1,q3,q4,q9,q18,q19,q20 --events 5000000 --json bench/results/nexmark.json
	$(BIN)/python -m bench.nexmark --source kafka --publish --queries q0,q3,q4,q9,q18,q20 --events 3000000 --json bench/results/nexmark-kafka.json
	$(BIN)/python -m bench.orders --orders 2000000 --json bench/results/orders.json
	$(BIN)/python -m bench.month_join --orders 50000000 --budget 1GB --variant plain,kafka,late-updates,cold-refunds --json bench/results/month_join.json
	$(BIN)/python -m bench.checkpoint --orders 66000000 --budget 1GB --intervals 3 --json bench/results/checkpoint.json
	$(BIN)/python -m bench.bootstrap --orders 50000000 --budget 1GB --json bench/results/bootstrap.json
	$(BIN)/python -m bench.sharing --orders 1000000 --json bench/results/sharing.json
	$(BIN)/python -m bench.alter --orders 1000000 --json bench/results/alter.json
	$(BIN)/python -m bench.keyed --budget 128MB --json bench/results/keyed.json
	$(BIN)/python -m bench.nexmark --source kafka --sink kafka --guarantee at-least-once,exactly-once --publish --durable --queries q0 --events 3000000 --json bench/results/exactly-once.json
	$(BIN)/python -m bench.wire --json bench/results/wire.json
	$(BIN)/python -m bench.latency --seconds 30 --json bench/results/latency.json
	$(BIN)/python -m bench.readme

faults: $(READY) $(BROKER)
	$(BIN)/python -m pytest -m faults --timeout 7200 -n auto --maxprocesses 4 --dist worksteal

repl: $(READY)
	$(BIN)/forebay sql

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

$(BROKER): tests/servers/kafka/pom.xml
	mvn -q -B -f tests/servers/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.servers/kafka/libs
	touch $@

clean:
	rm -rf $(VENV) .servers build dist *.egg-info
