"""Owners come and go: closing, dying, being replaced, living in deep directories."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import forebay
from forebay.connection import Connection
from forebay.engine.batch import Batch
from forebay.engine.errors import ConnectorError
from forebay.engine.runtime.warehouse import WarehouseLockedError
from forebay.remote.client import AttachedConnection, OwnerGoneError
from forebay.result import ChangeStream
from tests.attach.conftest import ROOT, Owner


def test_a_killed_owner_is_told_and_replaced(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "w")
    attached = forebay.connect(owner.path)
    assert isinstance(attached, AttachedConnection)
    attached.execute("INSERT INTO orders (id, shop) VALUES (1, 'a')")
    stream = attached.stream("SELECT id FROM orders")
    assert stream.fetch(0.3) == [("+I", (1,))]
    owner.kill()
    with pytest.raises(OwnerGoneError, match=r"does not answer\n.*\n.*connect again"):
        list(stream)
    with pytest.raises(ConnectorError, match="does not answer"):
        attached.sql("SELECT 1")
    assert (owner.path / "warehouse.sock").exists()
    with forebay.connect(owner.path) as heir:
        assert isinstance(heir, Connection)
        assert heir.lookup("shops", "a") == {"shop": "a", "n": 1, "total": None}
        with pytest.raises(OwnerGoneError):
            attached.lookup("shops", "a")
        with forebay.connect(owner.path) as another:
            assert isinstance(another, AttachedConnection)
    attached.close()
    assert not (owner.path / "warehouse.sock").exists()


def test_an_owner_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.remote.client._GREETING", 0.5)
    monkeypatch.setattr("forebay.opening._OWNER_STARTS", 0.1)
    owner = Owner(tmp_path / "w")
    owner.process.send_signal(signal.SIGSTOP)
    with pytest.raises(WarehouseLockedError, match=f"pid {owner.process.pid}"):
        forebay.connect(owner.path)
    owner.process.send_signal(signal.SIGCONT)
    with forebay.connect(owner.path) as attached:
        assert attached.sql("SELECT 1").fetchall() == [(1,)]
    owner.close()


def test_who_comes_first_owns_it_and_the_others_attach(tmp_path: Path) -> None:
    code = "import forebay, sys\nwith forebay.connect(sys.argv[1]) as con:\n"
    code += " con.execute('CREATE TABLE IF NOT EXISTS t (id INT); INSERT INTO t VALUES (1)')\n"
    code += " print(type(con).__name__, flush=True)\n sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "w")]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)
    ]
    kinds = [p.stdout.readline().strip() for p in started if p.stdout is not None]
    assert sorted(kinds) == ["AttachedConnection", "AttachedConnection", "Connection"]
    with forebay.connect(tmp_path / "w") as con:
        assert con.sql("SELECT COUNT(*) FROM t").fetchall() == [(3,)]
    for process in sorted(started, key=lambda p: kinds[started.index(p)]):
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_an_owner_that_closes_ends_streams_and_calls(tmp_path: Path) -> None:
    path = tmp_path / ("a long name with spaces, ü and % " * 4)
    owner = forebay.connect(path)
    owner.execute("CREATE TABLE t (id INT); CREATE TABLE slow (n BIGINT) WITH ('connector' = 'datagen',"
                  " 'rows-per-second' = '10', 'number-of-rows' = '100000')")  # fmt: skip
    attached = forebay.connect(path)
    assert isinstance(attached, AttachedConnection)
    assert len(str(path)) > 108
    stream = attached.stream("SELECT id FROM t")
    attached.execute("INSERT INTO t VALUES (1)")
    assert stream.fetch(0.3) == [("+I", (1,))]
    caught: list[BaseException] = []

    def count() -> None:
        try:
            attached.sql("SELECT COUNT(*) FROM slow")
        except forebay.ForebayError as error:
            caught.append(error)

    waiting = threading.Thread(target=count)
    waiting.start()
    while not set(owner.warehouse.driver.jobs) - {"query-1"}:
        time.sleep(0.01)
    owner.close()
    waiting.join(10)
    assert "cancelled" in str(caught[0])
    with pytest.raises(ConnectorError, match="has closed it"):
        stream.fetch(1)
    attached.close()


def test_an_attached_session_may_set_options(tmp_path: Path) -> None:
    with forebay.connect(tmp_path / "w"), forebay.connect(tmp_path / "w", config={"execution.latency": "20 ms"}) as con:
        rows = dict(r[:2] for r in con.sql("SET").fetchall())
        assert rows["execution.latency"] == "20 ms"
        with pytest.raises(forebay.OptionError, match="latncy"):
            forebay.connect(tmp_path / "w", config={"execution.latncy": "1 s"})


def test_a_reader_far_behind_loses_its_stream_not_the_owners_memory() -> None:
    import pyarrow as pa

    batch = Batch(pa.record_batch([pa.array(range(10))], names=["n"]))
    stream = ChangeStream(batch.schema, lambda: None)
    stream.max_pending = 25
    for _ in range(3):
        stream.deliver([batch])
    assert len(next(stream.batches(0)).rows) == 10
    for _ in range(10):
        stream.deliver([batch])
    with pytest.raises(ConnectorError, match="more than 25 rows behind"):
        list(stream)
    assert stream.ended
