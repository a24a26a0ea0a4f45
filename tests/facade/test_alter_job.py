"""ALTER JOB: what changed is rebuilt from state that lives on, sinks go on without doubling, and show the new query's result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay.engine.files import set_kill_hook
from tests.sim.world import Crash

TABLES = """
SET 'execution.checkpointing.interval' = '1 h';
CREATE TABLE orders (id BIGINT, shop STRING, amount BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'upsert-log',
  'topic' = 'orders', 'key.format' = 'json', 'value.format' = 'json');
CREATE TABLE refunds (order_id BIGINT, part BIGINT) WITH ('connector' = 'log', 'topic' = 'refunds', 'format' = 'json',
  'scan.startup.mode' = 'earliest-offset');
CREATE TABLE shops (name STRING, city STRING, PRIMARY KEY (name) NOT ENFORCED);
CREATE TABLE by_shop (shop STRING, a BIGINT, b BIGINT, PRIMARY KEY (shop) NOT ENFORCED);
CREATE TABLE wide (id BIGINT, shop STRING, part BIGINT);
CREATE TABLE lines (id BIGINT, part BIGINT) WITH ('connector' = 'log', 'topic' = 'lines', 'format' = 'json');
INSERT INTO shops VALUES ('x', 'Rome'), ('y', 'Oslo');
INSERT INTO orders VALUES (1, 'x', 10), (2, 'x', 20), (3, 'y', 5), (4, 'z', 1);
INSERT INTO refunds VALUES (1, 3), (1, 4), (3, 5);
"""
JOINED = "FROM orders o JOIN refunds r ON r.order_id = o.id"
Rows = list[tuple[Any, ...]]


@pytest.fixture
def con(tmp_path: Path) -> forebay.Connection:
    con = forebay.connect(tmp_path / "w")
    con.execute(TABLES)
    assert isinstance(con, forebay.Connection)
    return con


def rows(con: forebay.Connection, table: str) -> Rows:
    return sorted(con.sql(f"SELECT * FROM {table}").fetchall(), key=repr)


def until(con: forebay.Connection, done: Callable[[], bool]) -> None:
    assert con.warehouse.driver.wait(done, 30)


def shows(con: forebay.Connection, table: str, expected: Rows) -> None:
    wanted = sorted(expected, key=repr)
    con.warehouse.driver.wait(lambda: rows(con, table) == wanted, 20)
    assert rows(con, table) == wanted


def alter(con: forebay.Connection, sql: str, options: str = "") -> str:
    """Change the only job; the class of the change, which EXPLAIN tells too."""
    (job,) = con.jobs
    statement = f"ALTER JOB {job} {options} AS {sql}"
    explained = con.explain(statement).splitlines()[0]
    message = con.execute(statement).message or ""
    told = message.partition(": ")[2].split(":")[0]
    assert explained.startswith(f"{told}:")
    return told


def test_a_metric_a_filter_and_a_table_are_added_to_a_join(con: forebay.Connection) -> None:
    con.execute(f"INSERT INTO by_shop SELECT o.shop, SUM(r.part), 0 {JOINED} GROUP BY o.shop")
    shows(con, "by_shop", [("x", 7, 0), ("y", 5, 0)])
    read = scanned(con)
    assert (
        alter(con, f"INSERT INTO by_shop SELECT o.shop, SUM(r.part), MAX(o.amount) {JOINED} GROUP BY o.shop")
        == "REBUILD_PART"
    )
    assert rows(con, "by_shop") == [("x", 7, 10), ("y", 5, 5)]
    assert (
        alter(con, f"INSERT INTO by_shop SELECT shop, SUM(part), COUNT(*) {JOINED} WHERE part > 3 GROUP BY shop")
        == "REBUILD_PART"
    )
    assert rows(con, "by_shop") == [("x", 4, 1), ("y", 5, 1)]
    con.execute("INSERT INTO refunds VALUES (2, 9); INSERT INTO orders VALUES (3, 'y', 6)")
    shows(con, "by_shop", [("x", 13, 2), ("y", 5, 1)])
    assert scanned(con) == {name: count + 1 for name, count in read.items()}  # nothing was read again
    told = alter(
        con,
        "INSERT INTO by_shop SELECT s.city, SUM(r.part), COUNT(*) "
        f"{JOINED} JOIN shops s ON s.name = o.shop GROUP BY s.city",
    )
    assert told == "REBUILD_PART"
    assert rows(con, "by_shop") == [("Oslo", 5, 1), ("Rome", 16, 3)]
    con.execute("INSERT INTO shops VALUES ('y', 'Bonn'); INSERT INTO refunds VALUES (3, 1)")
    shows(con, "by_shop", [("Bonn", 6, 2), ("Rome", 16, 3)])


def scanned(con: forebay.Connection) -> dict[str, int]:
    nodes = con.warehouse.driver.flow.scans()
    return {n.scan.spec.table: n.scan.metrics.records for n in nodes if n.scan is not None}


def test_what_does_not_remember_changes_as_is(con: forebay.Connection) -> None:
    con.execute(f"INSERT INTO wide SELECT o.id, o.shop, r.part {JOINED}")
    shows(con, "wide", [(1, "x", 3), (1, "x", 4), (3, "y", 5)])
    assert alter(con, f"INSERT INTO wide SELECT o.id, o.shop, r.part + 0 {JOINED}") == "AS_IS"
    assert rows(con, "wide") == [(1, "x", 3), (1, "x", 4), (3, "y", 5)]
    assert alter(con, f"INSERT INTO wide SELECT o.id, UPPER(o.shop), r.part * 10 {JOINED}") == "AS_IS"
    assert rows(con, "wide") == [(1, "X", 30), (1, "X", 40), (3, "Y", 50)]
    con.execute("INSERT INTO refunds VALUES (4, 1)")
    shows(con, "wide", [(1, "X", 30), (1, "X", 40), (3, "Y", 50), (4, "Z", 10)])


def test_names_do_not_count(con: forebay.Connection) -> None:
    con.execute("INSERT INTO by_shop SELECT shop, SUM(amount) AS a, COUNT(*) AS b FROM orders GROUP BY shop")
    shows(con, "by_shop", [("x", 30, 2), ("y", 5, 1), ("z", 1, 1)])
    same = "INSERT INTO by_shop SELECT shop, SUM(amount) AS a, COUNT(*) AS b FROM orders GROUP BY shop"
    assert alter(con, same) == "AS_IS"
    renamed = "INSERT INTO by_shop SELECT shop, SUM(amount) AS total, COUNT(*) AS n FROM orders GROUP BY shop"
    assert alter(con, renamed) == "AFTER_RENAME"
    con.execute("INSERT INTO orders VALUES (5, 'z', 2)")
    shows(con, "by_shop", [("x", 30, 2), ("y", 5, 1), ("z", 3, 2)])


def test_an_append_sink_gets_only_what_comes(con: forebay.Connection) -> None:
    con.execute("INSERT INTO lines SELECT order_id, part FROM refunds")
    lines = lambda: rows(con, "lines /*+ OPTIONS('scan.bounded.mode' = 'latest-offset') */")
    until(con, lambda: con.checkpoint(20) and len(lines()) == 3)
    assert alter(con, "INSERT INTO lines SELECT order_id, part * 100 FROM refunds WHERE part > 3") == "AS_IS"
    con.execute("INSERT INTO refunds VALUES (7, 1), (8, 8)")
    until(con, lambda: con.checkpoint(20) and len(lines()) == 4)
    assert lines() == [(1, 3), (1, 4), (3, 5), (8, 800)]
    with pytest.raises(forebay.OptionError, match="takes insertions only"):
        alter(con, "INSERT INTO lines SELECT order_id, part FROM refunds", "WITH ('sink.output' = 'difference')")


def test_state_that_nothing_knows_is_lost_only_if_told_so(con: forebay.Connection) -> None:
    con.execute("INSERT INTO by_shop SELECT CAST(order_id AS STRING), SUM(part), 0 FROM refunds GROUP BY order_id")
    shows(con, "by_shop", [("1", 7, 0), ("3", 5, 0)])
    changed = "INSERT INTO by_shop SELECT CAST(order_id AS STRING), SUM(part), MAX(part) FROM refunds GROUP BY order_id"
    with pytest.raises(forebay.StateError, match="cannot be changed so") as failure:
        con.execute(f"ALTER JOB insert_into_by_shop AS {changed}")
    assert "Scan(refunds)" in str(failure.value.detail)
    con.execute("INSERT INTO refunds VALUES (1, 1)")
    shows(con, "by_shop", [("1", 8, 0), ("3", 5, 0)])
    assert alter(con, changed, "WITH ('allow-state-loss' = 'true')") == "INCOMPATIBLE"
    con.execute("INSERT INTO refunds VALUES (1, 2)")
    shows(con, "by_shop", [("1", 2, 2), ("3", 5, 0)])


def test_wrong_statements(con: forebay.Connection) -> None:
    con.execute(
        "INSERT INTO lines SELECT order_id, part FROM refunds; CREATE MATERIALIZED VIEW v AS SELECT * FROM shops"
    )
    for statement, message in (
        ("ALTER JOB nope AS INSERT INTO lines SELECT order_id, part FROM refunds", "there is no job 'nope'"),
        ("ALTER JOB v AS INSERT INTO lines SELECT order_id, part FROM refunds", "v is a materialized view"),
        ("ALTER JOB insert_into_lines AS SELECT 1", "expected INSERT or EXECUTE STATEMENT SET after AS"),
        ("ALTER JOB insert_into_lines AS INSERT INTO lines SELECT order_id, prt FROM refunds", "prt"),
        (
            "ALTER JOB insert_into_lines WITH ('x' = 'y') AS INSERT INTO lines SELECT order_id, part FROM refunds",
            "unknown option",
        ),
        ("ALTER VIEW v", "expected TABLE, JOB or MATERIALIZED VIEW after ALTER"),
    ):
        with pytest.raises(forebay.ForebayError, match=message):
            con.execute(statement)


def test_a_column_added_later_is_null_in_what_was_kept(con: forebay.Connection) -> None:
    con.execute(f"INSERT INTO wide SELECT o.id, o.shop, r.part {JOINED}")
    shows(con, "wide", [(1, "x", 3), (1, "x", 4), (3, "y", 5)])
    con.execute("ALTER TABLE refunds ADD reason STRING")
    told = alter(con, f"INSERT INTO wide SELECT o.id, COALESCE(r.reason, 'none'), r.part {JOINED}")
    assert told == "REBUILD_PART"
    assert rows(con, "wide") == [(1, "none", 3), (1, "none", 4), (3, "none", 5)]
    con.execute("INSERT INTO refunds VALUES (4, 1, 'late')")
    shows(con, "wide", [(1, "none", 3), (1, "none", 4), (3, "none", 5), (4, "late", 1)])


@pytest.mark.parametrize("place", ["checkpoint.rename.before", "checkpoint.rename.after", "catalog.rename.before"])
def test_a_change_has_happened_or_not(tmp_path: Path, place: str) -> None:
    con = forebay.Connection(tmp_path / "w")
    con.execute(TABLES)
    con.execute(f"INSERT INTO by_shop SELECT o.shop, SUM(r.part), 0 {JOINED} GROUP BY o.shop")
    shows(con, "by_shop", [("x", 7, 0), ("y", 5, 0)])
    con.close()
    con = forebay.Connection(tmp_path / "w", resume=False)

    def die(name: str) -> None:
        if name == place:
            raise Crash

    set_kill_hook(die)
    try:
        with pytest.raises(Crash):
            alter(con, f"INSERT INTO by_shop SELECT o.shop, SUM(r.part), COUNT(*) {JOINED} GROUP BY o.shop")
    finally:
        set_kill_hook(None)
    con.warehouse.close(final_checkpoint=False)
    con = forebay.Connection(tmp_path / "w")
    happened = place != "checkpoint.rename.before"
    assert ("COUNT(*)" in con.jobs["insert_into_by_shop"].sql) is happened
    con.execute("INSERT INTO refunds VALUES (2, 1)")
    shows(con, "by_shop", [("x", 8, 3), ("y", 5, 1)] if happened else [("x", 8, 0), ("y", 5, 0)])
    con.close()


def test_another_job_of_the_name_does_not_take_over_the_state(tmp_path: Path) -> None:
    con = forebay.Connection(tmp_path / "w")
    con.execute(TABLES)
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT order_id, SUM(part) AS n FROM refunds GROUP BY order_id")
    shows(con, "v", [(1, 7), (3, 5)])
    con.checkpoint(20)
    con.execute(
        "DROP MATERIALIZED VIEW v; CREATE MATERIALIZED VIEW v AS SELECT part, COUNT(*) AS n FROM refunds GROUP BY part"
    )
    con.warehouse.close(final_checkpoint=False)
    con = forebay.Connection(tmp_path / "w")
    shows(con, "v", [(3, 1), (4, 1), (5, 1)])
    con.close()


def test_state_survives_a_restart_after_any_number_of_changes(tmp_path: Path) -> None:
    """Nodes that a change has kept are found again, and what they stand on, whatever their names have become."""
    con = forebay.connect(tmp_path / "w", attach=False)
    con.execute(
        TABLES + "CREATE TABLE t (id BIGINT, shop STRING, v BIGINT, note STRING, PRIMARY KEY (id) NOT ENFORCED);"
    )
    con.execute("INSERT INTO t VALUES (1, 'x', 1, ''), (2, 'y', 2, ''), (3, 'x', 3, '')")
    joined = "FROM t JOIN refunds r ON r.order_id = t.id"
    con.execute(f"INSERT INTO by_shop SELECT shop, SUM(part), 0 {joined} GROUP BY shop")
    shows(con, "by_shop", [("x", 12, 0)])
    for query in (
        f"SELECT shop, SUM(part), MAX(v) {joined} GROUP BY shop",
        f"SELECT shop, SUM(part), MAX(v) {joined} WHERE v > 1 GROUP BY shop",
        f"SELECT shop, SUM(part), MAX(v) {joined} GROUP BY shop",
        f"SELECT shop, SUM(part), MAX(v) + 0 {joined} GROUP BY shop",
    ):
        alter(con, f"INSERT INTO by_shop {query}")
    before = held(con)
    con.close()
    con = forebay.connect(tmp_path / "w", attach=False)
    assert held(con) == before
    con.execute("INSERT INTO t VALUES (3, 'y', 4, ''); INSERT INTO refunds VALUES (2, 1)")
    shows(con, "by_shop", [("x", 7, 1), ("y", 6, 4)])
    con.close()


def held(con: forebay.Session) -> list[tuple[Any, ...]]:
    return sorted((s["name"], s["rows"]) for s in con.sql("SHOW STATE").arrow().to_pylist())
