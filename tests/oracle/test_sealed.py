"""Sealing every row as soon as it is committed changes no answer: TPC-H as views over cold state, step by step."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import forebay
from forebay.engine.runtime.budget import Budget
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.state.arrangement import Arrangement
from tests.oracle.harness import Oracle, changes, create
from tests.planner import tpch
from tests.state.test_tiers import close_chunk


def seal_all(budget: Budget, flow: Dataflow, rows: int) -> None:
    """In place of `Budget.keep`: no row stays hot."""
    for node in flow.order:
        for state in node.states().values():
            if isinstance(state, Arrangement):
                close_chunk(state)
                state.seal(1.0)
                while state.maintain():
                    pass


@pytest.mark.parametrize("part", [0, 1])
def test_views_over_cold_state_equal_the_batch_answer(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "keep", seal_all)
    monkeypatch.setattr("forebay.engine.state.cold.FAN", 3)
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
        segments = con.warehouse.driver.flow.segments()
        assert len(segments) > 10
        before = {name: sorted(con.sql(f"SELECT * FROM v_{name}").fetchall(), key=repr) for name in names}
    with forebay.connect(tmp_path / "w", resume=False) as con:
        assert con.warehouse.driver.flow.segments() == segments
        for name in names:
            assert sorted(con.sql(f"SELECT * FROM v_{name}").fetchall(), key=repr) == before[name]
