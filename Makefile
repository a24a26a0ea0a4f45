# Every target sets up what it needs: the virtual environment, the dependencies and the servers that the tests talk to.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BROKER := .servers/kafka/.ready

.PHONY: demo test check bench faults repl clean

demo: $(READY)
	$(BIN)/forebay demo

test: $(READY) $(BROKER)
	$(BIN)/python -m pytest -m "not faults"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layout.py

bench: $(READY)
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only
	$(BIN)/python -m bench.nexmark --queries q0,q1,q3,q4,q9,q18,q19,q20

faults: $(READY) $(BROKER)
	$(BIN)/python -m pytest -m faults --timeout 7200

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
