"""An attached session does what the owner's does: over a real socket, to a real owner."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal

import pyarrow as pa
import pytest

import forebay
from forebay.engine.errors import CatalogError, ForebayError, SqlError, UnsupportedError
from forebay.engine.runtime.warehouse import WarehouseLockedError
from forebay.remote.client import AttachedConnection
from forebay.session import Session
from tests.attach.conftest import ROOT, Owner

ROWS = "INSERT INTO orders VALUES (1, 'a', 10.5, MAP['x', 1], TIMESTAMP '2026-01-02 03:04:05.678'), (2, 'b', 1, NULL, NULL)"


def test_writes_are_read_by_every_session(owner: Owner, con: Session) -> None:
    assert isinstance(con, AttachedConnection)
    result = con.execute(ROWS)
    assert (result.rowcount, result.message, result.description, result.warnings) == (2, "2 rows changed", None, [])
    with forebay.connect(owner.path) as other:
        assert other.sql("SELECT * FROM shops ORDER BY shop").fetchall() == [
            ("a", 1, Decimal("10.50")),
            ("b", 1, Decimal("1.00")),
        ]
        assert other.execute("UPDATE orders SET amount = 2 WHERE id = 2").rowcount == 1
    assert con.lookup("shops", "b") == {"shop": "b", "n": 1, "total": Decimal("2.00")}
    assert con.lookup("shops", {"shop": "nobody"}) is None


def test_values_of_every_kind_arrive_as_they_left(con: Session) -> None:
    con.execute(ROWS)
    row = {
        "id": 1,
        "shop": "a",
        "amount": Decimal("10.50"),
        "tags": [("x", 1)],
        "at_": dt.datetime(2026, 1, 2, 3, 4, 5, 678000),
    }
    assert con.lookup("orders", (1,)) == row
    result = con.sql("SELECT * FROM orders WHERE id = 1")
    assert result.arrow().to_pylist() == [row]
    assert not result.schema.metadata
    assert result.description is not None
    assert [d[1] for d in result.description][:3] == ["INT", "STRING", "DECIMAL(10, 2)"]
    assert con.sql("SELECT id FROM orders WHERE id > 99").fetchall() == []


def test_errors_are_what_they_were(con: Session) -> None:
    with pytest.raises(SqlError) as caught:
        con.execute("SELECT 1;\nSELECT\n nope FROM orders")
    error = caught.value
    assert (error.line, error.column) == (3, 2)
    assert "orders.id" in (error.detail or "")
    assert "   ^" in str(error)
    with pytest.raises(CatalogError, match="did you mean orders") as missing:
        con.sql("SELECT * FROM order_")
    assert type(missing.value) is CatalogError
    with pytest.raises(UnsupportedError, match="never ends"):
        con.sql("SELECT * FROM ticks")
    with pytest.raises(CatalogError, match="the key of orders is"):
        con.lookup("orders", {"shop": 1})
    with pytest.raises(UnsupportedError, match="process that owns"):
        con.create_function(lambda: None)
    with pytest.raises(CatalogError, match=r"no job 'shop'\n.*did you mean 'shops'"):
        con.jobs["shop"]


def test_the_owners_functions_work_in_attached_sessions(con: Session) -> None:
    con.execute(ROWS)
    assert con.sql("SELECT shout(shop) FROM orders ORDER BY 1").fetchall() == [("A",), ("B",)]


def test_uploaded_tables_are_readable(con: Session) -> None:
    con.execute(ROWS)
    con.register("cities", pa.table({"shop": ["a", "b"], "city": ["Kyiv", "Lviv"]}))
    query = "SELECT o.id, c.city FROM orders o JOIN cities c ON o.shop = c.shop ORDER BY o.id"
    assert con.sql(query).fetchall() == [(1, "Kyiv"), (2, "Lviv")]
    con.register("many", pa.table({"n": range(300_000)}))
    assert con.sql("SELECT SUM(n) FROM many").fetchall() == [(44_999_850_000,)]
    assert con.sql("SELECT n FROM many").arrow().num_rows == 300_000
    with pytest.raises(CatalogError, match="already exists"):
        con.register("orders", pa.table({"n": [1]}))


def test_streams_follow_changes_and_end_with_either_side(owner: Owner, con: Session) -> None:
    con.execute(ROWS)
    with con.stream("SELECT id, amount FROM orders WHERE amount > 5") as stream:
        assert stream.columns == ["id", "amount"]
        assert stream.fetch(0.5) == [("+I", (1, Decimal("10.50")))]
        con.execute("UPDATE orders SET amount = 6 WHERE id = 1; INSERT INTO orders (id, amount) VALUES (3, 7)")
        assert sorted(stream.fetch(0.5)) == [
            ("+I", (1, Decimal("6.00"))),
            ("+I", (3, Decimal("7.00"))),
            ("-D", (1, Decimal("10.50"))),
        ]
        assert len(owner.aside()) == 1
    assert owner.left_alone()
    bounded = con.stream("SELECT n FROM (VALUES (1), (2)) AS t(n)")
    assert sorted(bounded) == [("+I", (1,)), ("+I", (2,))]
    with pytest.raises(SqlError, match="stream takes one query"):
        con.stream("SHOW TABLES")


def test_closing_a_stream_wakes_its_reader(con: Session) -> None:
    stream = con.stream("SELECT id FROM orders")
    seen: list[object] = []
    reader = threading.Thread(target=lambda: seen.extend(stream))
    reader.start()
    con.execute(ROWS)
    while len(seen) < 2:
        time.sleep(0.01)
    stream.close()
    reader.join(60)
    assert not reader.is_alive()


def test_jobs_run_while_two_sessions_query(owner: Owner, con: Session) -> None:
    con.execute(ROWS)
    con.execute("INSERT INTO nowhere SELECT n FROM ticks")
    job = con.jobs["insert_into_nowhere"]
    assert job.status == "RUNNING" and job.error is None
    assert "FROM ticks" in job.sql
    with forebay.connect(owner.path) as other:
        before = other.jobs["insert_into_nowhere"].metrics()["rows_in"]
        answers: list[int] = []

        def ask(session: Session) -> None:
            for _ in range(20):
                answers.append(session.sql("SELECT COUNT(*) FROM orders").fetchall()[0][0])

        threads = [threading.Thread(target=ask, args=(s,)) for s in (con, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [2] * 40
        assert not job.wait(0.3)
        assert job.metrics()["rows_in"] > before
        assert con.checkpoint(10)
        assert isinstance(job.metrics()["last_checkpoint"], dt.datetime)
        other.jobs["insert_into_nowhere"].stop()
    assert job.status == "STOPPED"
    assert "insert_into_nowhere" not in con.jobs
    assert con.wait(["shops"], 5)


def test_a_failed_job_says_why(con: Session) -> None:
    con.execute("CREATE MATERIALIZED VIEW bad AS SELECT id, fails(id) AS n FROM orders")
    try:
        result = con.execute("INSERT INTO orders (id) VALUES (9)")
        assert any("bad" in w and "no luck" in w for w in result.warnings)
        assert "no luck" in str(con.jobs["bad"].error)
        assert con.jobs["bad"].status in ("RESTARTING", "FAILED")
    finally:
        con.execute("DROP MATERIALIZED VIEW bad")


def test_a_statement_is_cancelled_by_its_client(owner: Owner) -> None:
    code = "import forebay, sys\ncon = forebay.connect(sys.argv[1])\nprint('on', flush=True)\n"
    code += "try: con.sql('SELECT COUNT(*) FROM slow')\nexcept KeyboardInterrupt: print(con.sql('SELECT 1').fetchall())"
    with _client(owner, code) as client:
        _until(lambda: bool(owner.aside()))
        client.send_signal(signal.SIGINT)
        assert client.stdout is not None
        assert client.stdout.read() == "[(1,)]\n"
    assert owner.left_alone()


def test_a_client_that_dies_leaves_nothing_running(owner: Owner, con: Session) -> None:
    code = "import forebay, sys, threading\ncon = forebay.connect(sys.argv[1])\nprint('on', flush=True)\n"
    code += "threading.Thread(target=con.sql, args=('SELECT COUNT(*) FROM slow',)).start()\n"
    code += "for change in con.stream('SELECT n FROM ticks'): pass"
    with _client(owner, code) as client:
        _until(lambda: len(owner.aside()) == 2)
        assert con.sql("SELECT COUNT(*) FROM orders").fetchall() == [(0,)]
        client.kill()
    assert owner.left_alone()


def test_only_a_second_owner_is_refused(owner: Owner, con: Session) -> None:
    with pytest.raises(WarehouseLockedError, match=f"pid {owner.process.pid}"):
        forebay.connect(owner.path, attach=False)
    assert os.stat(owner.path / "warehouse.sock").st_mode & 0o777 == 0o600
    con.close()
    con.close()
    with pytest.raises(ForebayError, match="closed"):
        con.sql("SELECT 1")


def _client(owner: Owner, code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(owner.path)]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert client.stdout is not None
    assert client.stdout.readline() == "on\n"
    return client


def _until(done: object) -> None:
    deadline = time.monotonic() + 10
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
