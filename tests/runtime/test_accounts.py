"""The accounts are true: they grow with the memory of the process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import forebay
from forebay.engine.runtime import budget as module
from forebay.engine.runtime.resident import Libraries, Resident, resident

ROOT = Path(__file__).parents[2]


def test_accounts_add_up_to_what_the_process_grows_by() -> None:
    command = [sys.executable, "-m", "tests.runtime.growth", "400000"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    grown = json.loads(done.stdout)
    assert len(grown) == 7
    wrong = {kind: (mine, really) for kind, (mine, really) in grown.items() if abs(mine - really) > 0.1 * really}
    assert not wrong


def test_pages_of_libraries_come_back_when_they_are_used() -> None:
    libraries = Libraries()
    before = resident()
    libraries.forget_pages()
    after = resident()
    assert after.file < before.file / 2
    assert after.anonymous > before.anonymous - (8 << 20), "what was written stays"
    with forebay.connect() as con:
        con.execute("CREATE TABLE t (id BIGINT, name STRING)")
        con.register("fresh", pa.table({"id": np.arange(1000), "name": [str(i) for i in range(1000)]}))
        con.execute("INSERT INTO t SELECT * FROM fresh")
        assert con.sql("SELECT COUNT(DISTINCT name), SUM(id) FROM t").fetchall() == [(1000, 499500)]


def test_memory_in_no_account_makes_state_leave_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVERY", 1)
    with forebay.connect(config={"memory.budget": "512MB"}) as con:
        budget = con.warehouse.driver.budget
        con.execute("CREATE TABLE t (id BIGINT, name STRING)")

        def insert() -> None:
            rows = {"id": np.arange(80_000), "name": ["x" * 500 + str(i) for i in range(80_000)]}
            con.register("fresh", pa.table(rows))
            con.execute("INSERT INTO t SELECT * FROM fresh")

        monkeypatch.setattr(module, "resident", lambda: Resident(1, 0))
        monkeypatch.setattr(module, "_RELIEF", 0.0)
        insert()
        insert()
        with con.warehouse.driver.boundary() as flow:
            assert not flow.graph.segments(), "by the accounts there is room"
            assert budget.used < 0.4 * budget.limit
        monkeypatch.setattr(module, "resident", lambda: Resident(budget._beside + budget.limit, 0))
        for _ in range(6):  # until there is too much; sealing takes a step an epoch
            insert()
        with con.warehouse.driver.boundary() as flow:
            assert flow.graph.segments()
            assert budget.used < 0.9 * budget.limit, "not all of the budget is charged for what sealing cannot change"


def test_snapshots_are_counted_given_back_and_refused_if_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    with forebay.connect() as con:
        con.execute("CREATE TABLE t (id BIGINT, name STRING)")
        con.register("fresh", pa.table({"id": np.arange(20_000), "name": ["x" * 100] * 20_000}))
        con.execute("INSERT INTO t SELECT * FROM fresh")
        assert con.sql("SELECT COUNT(*) FROM t").fetchall() == [(20_000,)]
        budget = con.warehouse.driver.budget
        with con.warehouse.driver.boundary() as flow:
            assert budget.accounts(flow)["snapshots"] > 2_000_000
            for holder in budget.holders.values():
                holder.give_back()
            assert budget.accounts(flow)["snapshots"] == 0
        monkeypatch.setattr("forebay.snapshots.LEAST", 1 << 20)
        con.execute("SET 'memory.budget' = '2MB'")
        with pytest.raises(forebay.ForebayError, match="the contents of t do not fit the memory budget"):
            con.sql("SELECT COUNT(*) FROM t")


def test_a_query_that_needs_too_much_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.snapshots.LEAST", 1 << 20)
    with forebay.connect(config={"memory.budget": "40MB"}) as con:
        con.register("a", pa.table({"id": np.arange(1_000_000)}))
        con.register("b", pa.table({"id": np.arange(1_000_000), "name": ["x" * 20] * 1_000_000}))
        with pytest.raises(forebay.ForebayError, match="the query needs more memory than it may have"):
            con.sql("SELECT SUM(LENGTH(x.name || y.name)) FROM b x JOIN b y ON x.id = y.id")
        assert con.sql("SELECT COUNT(*) FROM (SELECT name, id FROM b ORDER BY id DESC LIMIT 500000)").fetchall() == [
            (500_000,)
        ]


def test_waiting_threads_do_not_mind() -> None:
    """Pages go while other threads run code of the same libraries."""
    libraries, stop, sums = Libraries(), threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            sums.append(pc.sum(pa.array(np.arange(1000))).as_py())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        libraries.forget_pages()
    stop.set()
    for thread in threads:
        thread.join()
    assert set(sums) == {499500}
