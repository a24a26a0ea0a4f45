"""All 22 queries of TPC-H as views, equal to the batch answer after every small step."""

from __future__ import annotations

import random

import pytest

import forebay
from tests.oracle.harness import Oracle, changes, create
from tests.planner import tpch


@pytest.mark.parametrize("part", [0, 1])
def test_views_equal_the_batch_answer_at_every_step(part: int) -> None:
    names = sorted(tpch.QUERIES)[part::2]
    data = {table: rows.to_batches()[0] for table, rows in tpch.tables(part, 120).items()}
    with forebay.connect(resume=False) as con:
        oracle = Oracle(con)
        for table, schema in tpch.SCHEMAS.items():
            create(con, table, schema, tpch.KEYS[table])
        for name in names:
            oracle.view(f"v_{name}", tpch.QUERIES[name])
        for step, change in enumerate(changes(data, random.Random(part), 14, first=0.6)):
            oracle.feed(change)
            oracle.check(step)
        assert sum(oracle.answers.values()) >= oracle.comparisons / 2, oracle.answers
