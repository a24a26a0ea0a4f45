"""Dead letters as a stream: a topic of their own, a view over them, and every one of them once whatever dies when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import forebay

READ = """
SET 'execution.checkpointing.interval' = '1 h';
CREATE TABLE raw (message STRING) WITH ('connector' = 'log', 'topic' = 'src', 'format' = 'raw');
CREATE TABLE src (id INT) WITH ('connector' = 'log', 'topic' = 'src', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE bad (
  `table` STRING, source STRING, `partition` INT, `offset` BIGINT, reason STRING, key BYTES, `value` BYTES,
  `timestamp` TIMESTAMP_LTZ(3)
) WITH ('connector' = 'log', 'topic' = 'bad', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = 'latest-offset', 'sink.delivery-guarantee' = 'exactly-once');
INSERT INTO bad SELECT * FROM dead_letters WHERE `table` = 'src';
CREATE MATERIALIZED VIEW bad_by_topic AS SELECT source, COUNT(*) AS n FROM dead_letters GROUP BY source;
CREATE MATERIALIZED VIEW good AS SELECT id FROM src;
"""


def write(con: forebay.Connection, *messages: str) -> None:
    con.execute(f"INSERT INTO raw VALUES {', '.join(f'({chr(39)}{m}{chr(39)})' for m in messages)}")


def until(con: forebay.Connection, query: str, *rows: tuple[object, ...]) -> None:
    assert con.warehouse.driver.wait(lambda: con.sql(query).fetchall() == list(rows), 30), con.sql(query).fetchall()


def kill(con: forebay.Connection) -> None:
    """End without a last checkpoint, as a killed process does."""
    con.warehouse.close(final_checkpoint=False)
    con._closed = True


def test_each_goes_once_to_its_topic_over_crashes(tmp_path: Path) -> None:
    con = forebay.Connection(tmp_path / "w")
    con.execute(READ)
    write(con, '{"id":1}', "first", '{"id":2}')
    until(con, "SELECT n FROM bad_by_topic", (1,))
    assert con.checkpoint(30)
    write(con, "second", '{"id":3}')
    until(con, "SELECT n FROM bad_by_topic", (2,))
    kill(con)  # the second was read, and is in no checkpoint
    con = forebay.Connection(tmp_path / "w")
    write(con, "third")
    until(con, "SELECT n FROM bad_by_topic", (3,))
    assert con.checkpoint(30)
    kill(con)
    with forebay.Connection(tmp_path / "w") as con:
        found = con.sql("SELECT source, `offset`, `value`, reason, `table` FROM bad ORDER BY `offset`").fetchall()
        assert [(s, o, v) for s, o, v, _, _ in found] == [
            ("src", 1, b"first"),
            ("src", 3, b"second"),
            ("src", 5, b"third"),
        ]
        assert all(reason and table == "src" for _, _, _, reason, table in found)
        assert sorted(con.sql("SELECT id FROM good").fetchall()) == [(1,), (2,), (3,)]


def test_it_is_a_stream_without_a_past(tmp_path: Path) -> None:
    with forebay.Connection() as con:
        con.execute(READ.partition("CREATE TABLE bad")[0] + "CREATE MATERIALIZED VIEW good AS SELECT id FROM src")
        write(con, "early")
        until(con, "SELECT COUNT(*) FROM good", (0,))
        assert con.warehouse.driver.wait(lambda: len(con.execute("SHOW DEAD LETTERS").fetchall()) == 1, 30)
        with con.stream("SELECT `value` FROM dead_letters") as changes:
            write(con, "late")
            assert next(iter(changes))[1] == (b"late",)


def test_it_is_the_warehouses_own() -> None:
    with forebay.Connection() as con:
        assert [row[0] for row in con.execute("DESCRIBE dead_letters").fetchall()][:2] == ["table", "source"]
        assert con.execute("SHOW TABLES").fetchall() == []
        for statement in (
            "CREATE TABLE dead_letters (a INT)",
            "DROP TABLE dead_letters",
            "INSERT INTO dead_letters SELECT 1",
        ):
            with pytest.raises(forebay.CatalogError, match="dead_letters"):
                con.execute(statement)
        with pytest.raises(forebay.UnsupportedError, match="never ends"):
            con.execute("SELECT * FROM dead_letters")
        assert json.loads(con.catalog.to_json({}))["relations"] == []
