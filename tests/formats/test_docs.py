"""docs/cdc.md does what it says: its tables are opened as declared, its two INSERT ... SELECT played by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlglot import exp

import forebay
from forebay.connectors import topiclog
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, ColumnSpec, Fetched, TableSpec
from forebay.engine.runtime import deadletters
from forebay.planner import binder
from forebay.planner.assign import assigned
from forebay.planner.dialect.script import parse
from forebay.planner.statements import CreateTable, Insert
from tests.formats.reading import REGISTRY
from tests.planner.relations import TinyCatalog

PAGE = (Path(__file__).parents[2] / "docs" / "cdc.md").read_text()
STATEMENTS = [s for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) for s in parse(block)]
MESSAGE = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])


@pytest.fixture(autouse=True)
def fresh_memory() -> Iterator[None]:
    topiclog.forget_memory()
    yield
    topiclog.forget_memory()


def spec(name: str, **options: str) -> TableSpec:
    created = next(s for s in STATEMENTS if isinstance(s, CreateTable) and s.name == name)
    columns = []
    for c in created.columns:
        assert c.type is not None
        columns.append(ColumnSpec(c.name, c.type.arrow, c.name not in created.primary_key, c.metadata, c.virtual))
    return TableSpec(name, tuple(columns), {**created.options, **options}, created.primary_key)


def write(name: str, rows: list[dict[str, Any]]) -> None:
    table = spec(name)
    connector = REGISTRY.connector(table.options["connector"])
    assert connector.sink is not None
    sink = connector.sink(table)
    sink.recover()
    sink.write(Batch(pa.RecordBatch.from_pylist(rows, table.schema())))
    sink.flush()
    sink.commit(1)
    sink.close()


def read(name: str) -> tuple[Changelog, list[tuple[int, dict[str, Any]]], list[Fetched]]:
    table = spec(name, **{"scan.bounded.mode": "latest-offset"})
    connector = REGISTRY.connector(table.options["connector"])
    assert connector.source is not None
    source = connector.source(table)
    reader = source.reader(None)
    polls: list[Fetched] = []
    while (fetched := reader.poll(1000, 0)) is not None or not reader.finished():
        if fetched is not None:
            polls.append(fetched)
    reader.close()
    found = [row for f in polls for row in zip(f.batch.weight_array().tolist(), f.batch.rows.to_pylist())]
    return source.changelog, found, polls


def fill_the_binlog() -> None:
    values = next(s for s in STATEMENTS if isinstance(s, Insert) and s.target == "binlog_messages")
    write("binlog_messages", [{"message": literal.this} for literal in values.query.find_all(exp.Literal)])


def split_by_table() -> None:
    _, changes, _ = read("binlog")
    rows = []
    for _, change in changes:
        source = {"partition": change.pop("partition"), "offset": change.pop("offset")}
        topic = f"ods_{change['database_name']}_{change['table_name']}"
        rows.append({**change, "source": source, "topic": topic})
    write("ods", rows)


def test_the_binlog_shows_its_changes() -> None:
    fill_the_binlog()
    changelog, changes, polls = read("binlog")
    assert changelog is Changelog.APPEND
    assert [(r["op"], r["table_name"], r["offset"]) for _, r in changes] == [
        ("INSERT", "orders", 0),
        ("INSERT", "orders", 0),
        ("INSERT", "refunds", 1),
        ("UPDATE", "orders", 3),
        ("DELETE", "orders", 4),
    ]
    assert [c.statement for f in polls for c in f.schema_changes] == ["ALTER TABLE orders ADD note VARCHAR(20)"]
    assert not any(f.dead for f in polls)


def test_the_ods_is_split_and_typed() -> None:
    fill_the_binlog()
    split_by_table()
    changelog, changes, polls = read("orders")
    assert changelog is Changelog.UPSERT and not any(f.dead for f in polls)
    assert [(w, r["id"], r["city"], str(r["amount"])) for w, r in changes] == [
        (1, 1, "Berlin", "10.50"),
        (1, 2, "Rome", "7.00"),
        (1, 1, "Berlin", "12.50"),
        (-1, 2, "Rome", "7.00"),
    ]
    assert str(changes[2][1]["event_time"]) == "2024-01-31 12:00:03+00:00"


def test_the_message_shown_is_the_message_written() -> None:
    fill_the_binlog()
    split_by_table()
    table = TableSpec(
        "t",
        (ColumnSpec("message", pa.string()),),
        {"connector": "log", "topic": "ods_shop_orders", "format": "raw", "scan.bounded.mode": "latest-offset"},
    )
    make = REGISTRY.connector("log").source
    assert make is not None
    fetched = make(table).reader(None).poll(100, 0)
    assert fetched is not None
    messages = [json.loads(m) for m in fetched.batch.rows.column("message").to_pylist()]
    assert messages[2] == MESSAGE


def test_one_table_of_the_mixed_topic() -> None:
    fill_the_binlog()
    _, changes, polls = read("refunds")
    assert [(w, r["id"], r["order_id"], str(r["amount"])) for w, r in changes] == [(1, 100, 1, "3.25")]
    assert not any(f.dead for f in polls)


@pytest.mark.parametrize(("name", "expected"), [("ods", Changelog.APPEND), ("ods_clicks", Changelog.RETRACT)])
def test_what_the_sinks_of_the_page_take(name: str, expected: Changelog) -> None:
    changelog_of = REGISTRY.connector("log").sink_changelog
    assert changelog_of is not None and changelog_of(spec(name)) is expected


def test_the_options_of_the_page_are_known() -> None:
    for created in STATEMENTS:
        if isinstance(created, CreateTable):
            chosen = REGISTRY.format(created.options["format"])
            own = {o.removeprefix(f"{chosen.name}.") for o in created.options if o.startswith(f"{chosen.name}.")}
            assert own <= {o.name for o in chosen.options}


@pytest.mark.parametrize("insert", [s for s in STATEMENTS if isinstance(s, Insert)], ids=lambda s: s.target)
def test_the_queries_of_the_page_bind_and_fit(insert: Insert) -> None:
    relations = [binder.Relation(s.name, spec(s.name).schema()) for s in STATEMENTS if isinstance(s, CreateTable)]
    relations.append(binder.Relation(deadletters.NAME, deadletters.SCHEMA))
    plan = binder.Binder(TinyCatalog(*relations)).bind(insert.query, insert.sql)
    target = pa.schema([f for f, c in zip(spec(insert.target).schema(), spec(insert.target).columns) if not c.virtual])
    assert assigned(plan, insert.target, target, None, insert.sql).schema.names == target.names


def test_the_page_runs_as_it_stands() -> None:
    with forebay.connect() as con:
        con.execute(";\n".join(s.sql for s in STATEMENTS))
        con.execute("CREATE MATERIALIZED VIEW cities AS SELECT id, city FROM orders")
        con.execute("INSERT INTO binlog_messages VALUES ('{\"database\": ')")

        def shown() -> bool:
            good = con.sql("SELECT id, city FROM cities").fetchall() == [(1, "Berlin")]
            return good and con.sql("SELECT * FROM bad_by_topic").fetchall() == [("binlog", 1)]

        assert con.warehouse.driver.wait(shown, 30), con.execute("SHOW DEAD LETTERS").fetchall()
