"""What TRACE JOB says that operators give is what they gave: all rows of all tables, followed into a view, are its rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import forebay
from forebay import matching, trace
from forebay.engine.runtime.budget import Budget
from forebay.engine.state.arrays import Mask
from forebay.tap import follow
from tests.oracle.harness import Oracle, changes, create
from tests.oracle.test_sealed import seal_all
from tests.planner import tpch


class Everything(matching.Key):
    """Every row meets it."""

    def given(self, schema: pa.Schema) -> Mapping[str, Any]:
        return dict.fromkeys(schema.names[:1])

    def typed(self, schema: pa.Schema) -> dict[str, pa.Scalar]:
        return {}

    def mask(self, rows: pa.RecordBatch) -> Mask:
        return np.ones(rows.num_rows, bool)


def passed(stream: forebay.ChangeStream) -> Counter[str]:
    """What the changes add up to that a view was seen to give."""
    total: Counter[str] = Counter()
    for batch in stream.batches(0.0):
        for row in batch.rows.to_pylist():
            if row["node"].startswith("View") and row["what"] == "output":
                total[row["row"]] += 1 if row["kind"] == "+I" else -1
    stream.close()
    return Counter({row: count for row, count in total.items() if count})


@pytest.mark.parametrize("cold", [False, True])
def test_rows_followed_from_the_tables_are_those_of_the_view(cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "MOST_SHOWN", 10**6)
    monkeypatch.setattr(trace, "MOST_SHOWN", 10**6)
    if cold:
        monkeypatch.setattr(Budget, "keep", seal_all)
        monkeypatch.setattr("forebay.engine.state.groups.LEAST", 0)
    data = {table: rows.to_batches()[0] for table, rows in tpch.tables(3, 40).items()}
    with forebay.connect(resume=False) as con:
        oracle = Oracle(con)
        for table, schema in tpch.SCHEMAS.items():
            create(con, table, schema, tpch.KEYS[table])
        names = sorted(tpch.QUERIES)[:: 6 if cold else 2]
        for name in names:
            oracle.view(f"v_{name}", tpch.QUERIES[name])
        taps = {name: follow(con.warehouse.driver, f"v_{name}", Everything({}), None, None) for name in names}
        for change in changes(data, random.Random(3), 3, first=0.6):
            oracle.feed(change)
        unknown = []
        for name in names:
            shown = Counter(matching.texts(con.sql(f"SELECT * FROM v_{name}").arrow()))
            with con.warehouse.driver.boundary() as flow:
                rows = trace.trace(flow, f"v_{name}", Everything({}), 0).arrow().to_pylist()
            assert not [r for r in rows if r["what"] == "error"], name
            assert passed(taps[name]) == shown, name
            given = Counter(r["row"] for r in rows if r["node"].startswith("View") and r["what"] == "input")
            if given or not shown:
                assert given == shown, name
            else:
                unknown.append(name)
        assert unknown == []
