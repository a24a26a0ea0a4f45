"""Moving every row and group out of memory as soon as it is committed changes no answer: views over cold state, step by step."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import forebay
from forebay.engine.batch import Batch
from forebay.engine.runtime.budget import Budget
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.state import Segmented, Tiered
from forebay.engine.state.arrangement import Arrangement
from tests.oracle.harness import Oracle, bag, changes, create
from tests.oracle.test_nexmark import events, test_windows_over_a_whole_stream, total_order, views
from tests.planner import nexmark, tpch
from tests.state.test_tiers import close_chunk


def seal_all(budget: Budget, flow: Dataflow, rows: int) -> None:
    """In place of `Budget.keep`: no row and no group stays hot."""
    for node in flow.order:
        for state in node.states().values():
            if isinstance(state, Tiered):
                if isinstance(state, Arrangement):
                    close_chunk(state)
                state.seal(1.0)
                while state.maintain():
                    pass


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "keep", seal_all)
    monkeypatch.setattr("forebay.engine.state.cold.FAN", 3)
    monkeypatch.setattr("forebay.engine.state.cold.DEAR", 0)
    monkeypatch.setattr("forebay.engine.operators.pieces.FEW", 0)
    monkeypatch.setattr("forebay.engine.state.arrangement.Arrangement.at_once", 2)
    monkeypatch.setattr("forebay.engine.state.groups.LEAST", 0)


@pytest.mark.parametrize("part", [0, 1])
def test_views_over_cold_state_equal_the_batch_answer(part: int, tmp_path: Path) -> None:
    names = sorted(tpch.QUERIES)[part::2]
    data = {table: rows.to_batches()[0] for table, rows in tpch.tables(part, 40).items()}
    with forebay.connect(tmp_path / "w", resume=False) as con:
        oracle = Oracle(con)
        for table, schema in tpch.SCHEMAS.items():
            create(con, table, schema, tpch.KEYS[table])
        for name in names:
            oracle.view(f"v_{name}", tpch.QUERIES[name])
        for step, change in enumerate(changes(data, random.Random(part), 5, first=0.6)):
            oracle.feed(change)
            oracle.check(step)
        con.warehouse.driver.checkpoint()
        segments = con.warehouse.driver.flow.graph.segments()
        assert len(segments) > 10
        before = {name: sorted(con.sql(f"SELECT * FROM v_{name}").fetchall(), key=repr) for name in names}
    with forebay.connect(tmp_path / "w", resume=False) as con:
        assert con.warehouse.driver.flow.graph.segments() == segments
        for name in names:
            assert sorted(con.sql(f"SELECT * FROM v_{name}").fetchall(), key=repr) == before[name]


def test_nexmark_over_cold_groups(tmp_path: Path) -> None:
    """The winning bids and their averages, last bids, top bids: groups and what they keep, cold between any two epochs."""
    names, rows = ["q4", "q9", "q15", "q17", "q18", "q19"], events(1500)
    with forebay.connect(tmp_path / "w", resume=False) as con:
        create(con, "events", rows.schema)
        for statement in views():
            con.execute(statement)
        oracle = Oracle(con)
        for name in names:
            oracle.view(f"v_{name}", total_order(nexmark.QUERIES[name]))
        for at in range(0, rows.num_rows, 300):
            oracle.feed({"events": Batch(rows.slice(at, 300))})
            oracle.check(at)
        states = [s for n in con.warehouse.driver.flow.order for s in n.states().values() if isinstance(s, Segmented)]
        keyed = [s for s in states if not isinstance(s, Arrangement)]
        assert sum(bool(s.cold_segments()) for s in keyed) > 8
        told = [s for s in con.execute("SHOW STATE").arrow().to_pylist() if s["segments"]]
        assert len(told) == sum(bool(s.cold_segments()) for s in states) and all(s["disk_bytes"] > 0 for s in told)
        con.warehouse.driver.checkpoint()
        before = {name: oracle.shown(f"v_{name}") for name in names}
    with forebay.connect(tmp_path / "w", resume=False) as con:
        again = Oracle(con)
        assert {name: again.shown(f"v_{name}") for name in names} == before
        again.feed({"events": Batch(rows.slice(0, 400))})
        for name in names:
            shown = again.shown(f"v_{name}")
            assert shown == bag(con.sql(total_order(nexmark.QUERIES[name])).fetchall()), name


@pytest.mark.parametrize("name", ["q5", "q7"])
def test_windows_over_cold_groups(name: str) -> None:
    """Groups of a window are found when it closes, wherever they are."""
    test_windows_over_a_whole_stream(name)
