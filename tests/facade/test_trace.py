"""TRACE JOB: what each operator of a job gets, holds and gives for a key, now and as changes pass."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay import trace
from forebay.cli.output import Output
from forebay.cli.sql import run_script
from forebay.engine.errors import SqlError

SETUP = """
CREATE TABLE orders (id BIGINT, shop STRING, amount BIGINT, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE refunds (order_id BIGINT, part BIGINT);
CREATE TABLE out (shop STRING, parts BIGINT, PRIMARY KEY (shop) NOT ENFORCED) WITH ('connector' = 'upsert-log', 'topic' = 'out',
  'key.format' = 'json', 'value.format' = 'json');
INSERT INTO orders VALUES (1, 'a', 10), (2, 'b', 20);
INSERT INTO refunds VALUES (1, 5), (1, 6), (2, 7);
"""
VIEW = """CREATE MATERIALIZED VIEW v AS
  SELECT o.shop, SUM(r.part) AS parts FROM orders o LEFT JOIN refunds r ON r.order_id = o.id GROUP BY o.shop"""
Line = tuple[str, str, str, str]


def lines(rows: list[dict[str, Any]], *what: str) -> list[Line]:
    """(node, what, kind, row) of the lines of these sorts."""
    return [(r["node"].split("(")[0], r["what"], r["kind"] or "", r["row"]) for r in rows if r["what"] in what]


def traced(con: forebay.Session, job: str, where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = con.sql(f"TRACE JOB {job} WHERE {where}").arrow().to_pylist()
    return found


def held(con: forebay.Session, job: str, where: str) -> list[tuple[str, str]]:
    rows = [r for r in traced(con, job, where) if r["what"] == "state"]
    return [(re.sub("_[0-9a-f]{6}$", "", r["name"]), r["row"]) for r in rows]


def test_states_of_a_job_are_asked_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with forebay.connect(tmp_path / "w") as con:
        con.execute(SETUP + VIEW)
        assert sorted(held(con, "v", "id = 1 AND order_id = 1 AND shop = 'a'")) == [
            ("orders", "id = 1, shop = a, amount = 10"),
            ("orders_by_id", "id = 1, shop = a"),
            ("orders_refunds_aggregate_groups", "shop = a, parts = 11"),
            ("refunds", "order_id = 1, part = 5"),
            ("refunds", "order_id = 1, part = 6"),
            ("refunds_by_order_id", "order_id = 1, part = 5"),
            ("refunds_by_order_id", "order_id = 1, part = 6"),
            ("v", "shop = a, parts = 11"),
        ]
        assert held(con, "v", "part = -7") == held(con, "v", "id = 'one'") == []
        assert held(con, "v", "id = '2'")[0] == ("orders", "id = 2, shop = b, amount = 20")
        rows = [("refunds", "order_id = 2, part = 7"), ("refunds_by_order_id", "order_id = 2, part = 7")]
        assert held(con, "v", "part = '7'") == rows
        monkeypatch.setattr(trace, "MOST_LOOKED_THROUGH", 0)
        assert held(con, "v", "part = 7")[1] == (
            "refunds_by_order_id",
            "3 rows, not looked through: its key is (order_id)",
        )


def test_a_key_is_followed_from_its_table_to_the_result() -> None:
    with forebay.connect() as con:
        con.execute(SETUP + VIEW)
        rows = traced(con, "v", "id = 1")
        assert lines(rows, "input", "output")[3:] == [
            ("Join", "input", "+I", "id = 1, shop = a"),
            ("Join", "input", "+I", "order_id = 1, part = 5"),
            ("Join", "input", "+I", "order_id = 1, part = 6"),
            ("Join", "output", "+I", "id = 1, shop = a, order_id = 1, part = 5"),
            ("Join", "output", "+I", "id = 1, shop = a, order_id = 1, part = 6"),
            ("Project", "input", "+I", "id = 1, shop = a, order_id = 1, part = 5"),
            ("Project", "input", "+I", "id = 1, shop = a, order_id = 1, part = 6"),
            ("Project", "output", "+I", "shop = a, part = 5"),
            ("Project", "output", "+I", "shop = a, part = 6"),
            ("Aggregate", "input", "+I", "shop = a, part = 5"),
            ("Aggregate", "input", "+I", "shop = a, part = 6"),
            ("Aggregate", "output", "+I", "shop = a, parts = 11"),
            ("View", "input", "+I", "shop = a, parts = 11"),
        ]
        assert [r["name"] for r in rows if r["node"] == "Join(left)" and r["what"] == "input"] == [
            "4 Arrange(by [0])", "5 Arrange(by [0])", "5 Arrange(by [0])",
        ]  # fmt: skip
        con.execute("DELETE FROM refunds WHERE order_id = 1")
        assert ("Join", "output", "+I", "id = 1, shop = a, order_id = None, part = None") in lines(
            traced(con, "v", "id = 1"), "output"
        )
        assert {r["epoch"] for r in rows} == {None}


def test_rankings_filters_and_failing_rows_are_followed() -> None:
    with forebay.connect() as con:
        con.execute(SETUP)
        con.execute("""CREATE MATERIALIZED VIEW best AS SELECT shop AS place, id FROM (
          SELECT *, ROW_NUMBER() OVER (PARTITION BY shop ORDER BY amount DESC) AS n FROM orders) WHERE n = 1""")
        con.execute("INSERT INTO orders VALUES (3, 'a', 30)")
        assert lines(traced(con, "best", "id = 1"), "output")[-2:] == [
            ("Rank", "output", "+I", "id = 3, shop = a, amount = 30"),
            ("Project", "output", "+I", "place = a, id = 3"),
        ]
        con.execute(
            "CREATE MATERIALIZED VIEW big AS SELECT id, amount / part AS x FROM orders, refunds WHERE id = order_id"
        )
        con.execute("INSERT INTO refunds VALUES (2, 0)")
        assert con.jobs["big"].status in ("RESTARTING", "FAILED")
        assert lines(traced(con, "big", "part = 0"), "missed") == [("Table", "missed", "+I", "order_id = 2, part = 0")]
        with con.stream("TRACE JOB big WHERE id = 2") as stream:
            con.jobs["big"].resume()
            (error,) = [r for b in stream.batches(0.0) for r in b.rows.to_pylist() if r["what"] == "error"]
        assert error["node"] == "Project" and "zero" in error["row"]


def test_rows_that_a_sink_owes_are_shown() -> None:
    with forebay.connect(config={"execution.checkpointing.interval": "1 h"}) as con:
        con.execute(SETUP)
        con.execute("INSERT INTO out SELECT shop, SUM(amount) FROM orders GROUP BY shop")
        rows = traced(con, "insert_into_out", "shop = 'b'")
        assert lines(rows, "not confirmed") == [("Sink", "not confirmed", "+I", "shop = b, parts = 20")]


# -- as changes pass ------------------------------------------------------------------------------------------------

MOVE = "INSERT INTO orders VALUES (1, 'c', 3)"
MOVED = [
    ("Join", "output", "-D", "id = 1, shop = a, order_id = 1, part = 5"),
    ("Join", "output", "-D", "id = 1, shop = a, order_id = 1, part = 6"),
    ("Join", "output", "+I", "id = 1, shop = c, order_id = 1, part = 5"),
    ("Join", "output", "+I", "id = 1, shop = c, order_id = 1, part = 6"),
    ("Aggregate", "output", "-D", "shop = a, parts = 11"),
    ("Aggregate", "output", "+I", "shop = c, parts = 11"),
]


def until(stream: forebay.ChangeStream, node: str, what: str) -> list[dict[str, Any]]:
    """Rows up to the first of that sort of a node."""
    got: list[dict[str, Any]] = []
    for batch in stream.batches():
        got += batch.rows.to_pylist()
        if any(r["node"].startswith(node) and r["what"] == what for r in got):
            return got
    return got


def test_changes_of_a_key_are_followed_through_every_operator() -> None:
    with forebay.connect() as con:
        con.execute(SETUP + VIEW)
        driver = con.warehouse.driver
        with con.stream("TRACE JOB v WHERE id = 1") as stream:
            con.execute("INSERT INTO orders VALUES (2, 'c', 3)")
            con.execute(MOVE)
            con.execute("INSERT INTO refunds VALUES (1, 9), (2, 100)")
            got = [row for batch in stream.batches(0.0) for row in batch.rows.to_pylist()]
            assert driver.flow.taps
        assert not driver.flow.taps, "nobody looks on any more"
        first, second = sorted({r["epoch"] for r in got})
        outputs = lines([r for r in got if r["epoch"] == first], "output")
        assert sorted(o for o in outputs if o[0] in ("Join", "Aggregate")) == sorted(
            [
                *MOVED[:-1],
                ("Aggregate", "output", "-D", "shop = c, parts = 7"),
                ("Aggregate", "output", "+I", "shop = c, parts = 18"),
            ]
        )
        assert lines([r for r in got if r["epoch"] == second], "input", "output") == [
            ("Join", "input", "+I", "order_id = 1, part = 9"),
            ("Join", "output", "+I", "id = 1, shop = c, order_id = 1, part = 9"),
            ("Project", "input", "+I", "id = 1, shop = c, order_id = 1, part = 9"),
            ("Project", "output", "+I", "shop = c, part = 9"),
            ("Aggregate", "input", "+I", "shop = c, part = 9"),
            ("Aggregate", "output", "-D", "shop = c, parts = 18"),
            ("Aggregate", "output", "+I", "shop = c, parts = 127"),
            ("View", "input", "-D", "shop = c, parts = 18"),
            ("View", "input", "+I", "shop = c, parts = 127"),
            ("View", "output", "-D", "shop = c, parts = 18"),
            ("View", "output", "+I", "shop = c, parts = 127"),
        ]


@pytest.mark.parametrize("attached", [False, True])
def test_the_statement_ends_by_itself_and_tells_what_came(attached: bool, tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w") as owner:
        owner.execute(SETUP + VIEW)
        assert owner.sql("TRACE JOB v WHERE id = 1 FOR 1 SECOND").fetchall() == []
        timer = threading.Thread(target=lambda: (_until_tapped(owner), owner.execute(MOVE)))
        timer.start()
        if attached:
            from forebay.remote.client import AttachedConnection

            with AttachedConnection(tmp_path / "w") as con:
                rows = con.sql("TRACE JOB v WHERE id = 1 FOR 1 HOUR LIMIT 20").arrow().to_pylist()
        else:
            rows = owner.sql("TRACE JOB v WHERE id = 1 FOR 1 HOUR LIMIT 20").arrow().to_pylist()
        timer.join()
        assert len(rows) == 20
        assert sorted(o for o in lines(rows, "output") if o[0] == "Join") == sorted(MOVED[:4])
        assert not owner.warehouse.driver.flow.taps


def _until_tapped(con: forebay.Connection) -> None:
    while not con.warehouse.driver.flow.taps:
        time.sleep(0.01)


def test_ctrl_c_ends_it_with_what_has_come() -> None:
    with forebay.connect() as con:
        con.execute(SETUP + VIEW)

        def change_and_interrupt() -> None:
            _until_tapped(con)
            con.execute(MOVE)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        timer = threading.Thread(target=change_and_interrupt)
        timer.start()
        rows = con.sql("TRACE JOB v WHERE id = 1 FOR 1 HOUR").arrow().to_pylist()
        timer.join()
        assert {r["node"] for r in rows} == {
            "Table(orders)",
            "Pick(id, shop)",
            "Arrange(by [0])",
            "Join(left)",
            "Project",
        } | {
            "Aggregate",
            "View(v)",
        }
        assert not con.warehouse.driver.flow.taps


def test_the_shell_prints_changes_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    with forebay.connect() as con:
        con.execute(SETUP + VIEW)
        timer = threading.Thread(target=lambda: (_until_tapped(con), con.execute(MOVE)))
        timer.start()
        assert run_script(con, "TRACE JOB v WHERE id = 1 LIMIT 3", Output())
        timer.join()
        printed = capsys.readouterr().out
        assert re.search(r"epoch \d+  1 Table\(orders\)  output  -D  id = 1, shop = a, amount = 10", printed)
        assert "(3 rows)" in printed


def test_windows_and_failures_are_followed_over_epochs() -> None:
    with forebay.connect() as con:
        con.execute("""CREATE TABLE clicks (u INT, n INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'log',
          'topic' = 'clicks', 'format' = 'json')""")
        con.execute("""CREATE MATERIALIZED VIEW w AS SELECT u, window_end AS e, 60 / SUM(n) AS m
          FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY u, window_start, window_end""")
        with con.stream("TRACE JOB w WHERE u = 7") as stream:
            early = "TIMESTAMP '2026-01-01 00:00:01'"
            con.execute(f"INSERT INTO clicks VALUES (7, 2, {early}), (8, 2, {early})")
            con.checkpoint()
            con.execute("INSERT INTO clicks VALUES (9, 2, TIMESTAMP '2026-01-01 00:01:01')")
            got = until(stream, "View", "output")
            assert ("View", "output", "+I", "u = 7, e = 2026-01-01 00:01:00, m = 30") in lines(got, "output")
            assert not any("u = 8" in r["row"] or "u = 9" in r["row"] for r in got)
            assert len({r["epoch"] for r in got}) > 1
            con.execute("INSERT INTO clicks VALUES (7, 0, TIMESTAMP '2026-01-01 00:02:01')")
            con.execute("INSERT INTO clicks VALUES (9, 2, TIMESTAMP '2026-01-01 00:09:01')")
            failed = until(stream, "Project", "error")[-1]
            assert "zero" in failed["row"]


@pytest.mark.parametrize(
    "condition",
    [
        "paid = 7",
        "paid = '7.00'",
        "at = '2026-11-01 00:00:00'",
        "at = TIMESTAMP '2026-11-01 00:00:00'",
        "seen = '2026-11-01 00:00:00'",
        "seen = '2026-11-01 00:00:00Z'",
        "day = DATE '2026-11-01'",
        "done = TRUE",
        "share = 0.5",
    ],
)
def test_values_of_all_types_are_found(condition: str, typed: forebay.Connection) -> None:
    found = typed.sql(f"TRACE JOB v WHERE {condition}").arrow().to_pylist()
    assert [r["what"] for r in found[:1]] == ["state"]
    assert found[0]["row"].startswith("id = 1, paid = 7.00, ")


@pytest.fixture(scope="module")
def typed() -> Iterator[forebay.Connection]:
    with forebay.connect() as con:
        con.execute("""
        CREATE TABLE t (id BIGINT, paid DECIMAL(10, 2), at TIMESTAMP(3), seen TIMESTAMP_LTZ(3), day DATE, done BOOLEAN,
          share DOUBLE);
        CREATE MATERIALIZED VIEW v AS SELECT * FROM t;
        INSERT INTO t SELECT 1, 7, TIMESTAMP '2026-11-01 00:00:00', CAST(TIMESTAMP '2026-11-01 00:00:00' AS TIMESTAMP_LTZ(3)),
          DATE '2026-11-01', TRUE, CAST(0.5 AS DOUBLE);
        INSERT INTO t (id) VALUES (2);
        """)
        yield con


def test_a_value_that_no_column_can_have_finds_nothing(typed: forebay.Connection) -> None:
    for value in ("99999999999999999999", "-99999999999999999999", "1.5", "'abc'", "1e300"):
        assert typed.sql(f"TRACE JOB v WHERE id = {value}").fetchall() == []


def test_a_trace_that_is_wrong_is_refused() -> None:
    with forebay.connect() as con:
        con.execute(SETUP + VIEW)
        for wrong, message in (
            ("TRACE JOB v WHERE id > 1", "column = constant"),
            ("TRACE JOB v WHERE id = 1 + 1", "column = constant"),
            ("TRACE JOB v WHERE id = 1 AND id = 2", "one value of a column, 'id' has two"),
            ("TRACE JOB v WHERE id = 1 FOR ever", "expected a number of SECONDS"),
            ("TRACE JOB v WHERE id = 1 FOR 3 fortnights", "expected SECONDS, MINUTES or HOURS"),
            ("TRACE JOB v WHERE id = 1 LIMIT 0", "expected a number of rows"),
        ):
            with pytest.raises(SqlError, match=message):
                con.execute(wrong)
        for how in ("", " FOR 1 HOUR"):
            with pytest.raises(
                forebay.ForebayError, match="nothing that job 'v' reads or makes has a column 'order_ident'"
            ):
                con.execute(f"TRACE JOB v WHERE order_ident = 1{how}")
        with con.stream("TRACE JOB v WHERE id = 1") as stream:
            con.execute("DROP MATERIALIZED VIEW v")
            con.execute(MOVE)
            with pytest.raises(forebay.ForebayError, match="job 'v' is gone"):
                list(stream.batches())


def test_rows_that_are_dated_as_they_come_and_upserts_are_followed() -> None:
    with forebay.connect() as con:
        con.execute("""CREATE TABLE a (id BIGINT, v STRING) WITH ('connector' = 'log', 'topic' = 'a', 'format' = 'json');
          CREATE TABLE b (id BIGINT, w STRING, PRIMARY KEY (id) NOT ENFORCED) WITH ('connector' = 'upsert-log', 'topic' = 'b',
            'key.format' = 'json', 'value.format' = 'json');
          CREATE MATERIALIZED VIEW j AS SELECT /*+ STATE_TTL('a' = '1 d', 'b' = '1 d') */ UPPER(a.v) AS big, b.w
            FROM a LEFT JOIN b ON a.id = b.id WHERE a.v <> 'x'""")
        with con.stream("TRACE JOB j WHERE id = 1") as stream:
            con.execute("INSERT INTO a VALUES (1, 'x'), (1, 'y'), (2, 'z')")
            con.execute("INSERT INTO b VALUES (1, 'old')")
            con.execute("INSERT INTO b VALUES (1, 'new')")
            driver = con.warehouse.driver
            assert driver.wait(
                lambda: con.sql("SELECT big, w FROM j WHERE w = 'new'").fetchall() == [("Y", "new")], None
            )
            seen = lines([r for b in stream.batches(0.0) for r in b.rows.to_pylist()], "output")
        assert ("Normalize", "output", "+I", "id = 1, w = new") in seen
        assert ("View", "output", "+I", "big = Y, w = new") in seen
        assert not any("Z" in row or "z" in row for *_, row in seen)
        now = lines(traced(con, "j", "id = 1"), "input", "output")
        assert ("View", "input", "+I", "big = Y, w = new") in now
        joined = [row for node, what, _, row in now if (node, what) == ("Join", "input")]
        assert [row.partition(", $came")[0] for row in joined] == ["id = 1, v = x", "id = 1, v = y", "id = 1, w = new"]
