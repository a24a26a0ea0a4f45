"""Random queries over random relations with NULLs and duplicates, as views: equal to the batch answer after every step."""

from __future__ import annotations

import random

import pytest

import forebay
from tests.oracle.harness import Oracle, changes, create
from tests.planner.relations import SCHEMA, table_rows
from tests.planner.test_random_queries import Queries


@pytest.mark.parametrize("seed", range(6))
def test_views_equal_the_batch_answer_at_every_step(seed: int) -> None:
    data = {name: table_rows(60, seed * 2 + i).to_batches()[0] for i, name in enumerate("tu")}
    with forebay.connect(resume=False) as con:
        oracle = Oracle(con)
        for table in data:
            create(con, table, SCHEMA)
        for number in range(12):
            oracle.view(f"v{number}", Queries(1000 * seed + number).query(depth=2))
        for step, change in enumerate(changes(data, random.Random(seed), 10)):
            oracle.feed(change)
            oracle.check(step)
        assert sum(oracle.answers.values()) >= oracle.comparisons / 2, oracle.answers


def test_a_view_over_tables_with_a_past_equals_one_that_was_there_first() -> None:
    data = {name: table_rows(200, i).to_batches()[0] for i, name in enumerate("tu")}
    queries = [Queries(seed).query(depth=2) for seed in range(500, 520)]
    with forebay.connect(resume=False) as con:
        oracle = Oracle(con)
        for table in data:
            create(con, table, SCHEMA)
        for step, change in enumerate(changes(data, random.Random(7), 6)):
            for number in range(step, len(queries), 6):
                oracle.view(f"v{number}", queries[number])
            oracle.check(("attached", step))
            oracle.feed(change)
            oracle.check(step)
