"""The Nexmark runner's parts: texts of the queries, options, reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import measure, nexmark


def test_every_query_is_a_table_and_an_insert() -> None:
    assert {"q0", "q3", "q9", "q22"} <= set(nexmark.query_names())
    for name in nexmark.query_names():
        create, insert = nexmark.statements(name, {"connector": "nexmark"}, {"connector": "black'hole"})
        assert create.startswith(f"CREATE TABLE {name} (")
        assert create.endswith("WITH ('connector' = 'black''hole')")
        assert insert.startswith(f"INSERT INTO {name}\n")
        assert ("PRIMARY KEY" in create) == (name in nexmark.UPDATING)


def test_sources_and_sinks_from_the_command_line() -> None:
    args = nexmark.parser().parse_args(["--source", "kafka", "--sink", "kafka", "--bootstrap", "h:1", "--topic", "t"])
    assert nexmark.source_options(args)["scan.bounded.mode"] == "latest-offset"
    assert nexmark.sink_options(args, "q0")["topic"] == "t-q0"
    assert nexmark.sink_options(args, "q4")["format"] == "debezium-json"
    with pytest.raises(SystemExit, match="--bootstrap"):
        nexmark.source_options(nexmark.parser().parse_args(["--source", "kafka"]))
    with pytest.raises(SystemExit, match="no query q99"):
        nexmark.main(["--queries", "q99"])


def test_the_generator_case_reports_json(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert nexmark.main(["--queries", "generator", "--events", "20000", "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["bench"] == "nexmark"
    assert document["machine"]["cores"] >= 1
    (entry,) = document["results"]
    assert {"case", "rows", "seconds", "rows_per_s", "cpu_seconds", "peak_rss_mb"} <= set(entry)
    assert (entry["case"], entry["rows"]) == ("generator", 20000)


def test_table_is_aligned() -> None:
    assert measure.table([{"case": "q0", "rows": 1234}], ("case", "rows", "seconds")).splitlines() == [
        "case   rows  seconds",
        "  q0  1,234        -",
    ]
