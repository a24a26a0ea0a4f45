"""Key tables: equal hashes, canonical keys, life and death of ids, saving by what changed."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine.state import keys as module
from forebay.engine.state.groups import GroupTable
from forebay.engine.state.keys import KeyTable

SCHEMA = pa.schema([("a", pa.float64()), ("b", pa.string()), ("l", pa.list_(pa.float64()))])
A, B, L = [0.0, -0.0, math.nan, 1.5, None], ["", "x", "xy", None], [[0.0], [-0.0], [None], [], None]


def rows_of(values: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = [pa.array([v[i] for v in values], f.type) for i, f in enumerate(SCHEMA)]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def canonical(row: tuple[Any, ...]) -> str:
    return repr(row).replace("-0.0", "0.0")


def few_hashes(batch: pa.RecordBatch, columns: Any) -> np.ndarray:
    """A bad hash: three values."""
    texts = batch.column(1).to_pylist()
    return np.array([len(t or "") % 3 for t in texts], np.uint64)


@pytest.mark.parametrize("collide", [False, True])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 12))
def test_follows_a_dictionary(collide: bool, seed: int, steps: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if collide:
            patch.setattr(module, "hash_rows", few_hashes)
        run(Random(seed), steps)


def run(random: Random, steps: int) -> None:
    """Epochs of interning and freeing, committed or rolled back, with a restart now and then."""
    table = GroupTable(KeyTable(SCHEMA), 1)
    known: dict[str, int] = {}
    saved = table.changes(True)
    for _ in range(steps):
        values = [(random.choice(A), random.choice(B), random.choice(L)) for _ in range(random.randint(1, 12))]
        ids = table.intern(rows_of(values))
        table.open(ids)
        table.write(ids, ids.reshape(-1, 1) + 1)
        seen = dict(known)
        for value, got in zip(values, ids.tolist()):
            assert seen.setdefault(canonical(value), got) == got
        assert len(set(seen.values())) == len(seen)
        doomed = [key for key in seen if random.random() < 0.4 and seen[key] in ids]
        table.free(np.array([seen[key] for key in doomed], np.int64))
        if random.random() < 0.3:
            table.rollback()
        else:
            table.commit()
            known = {key: got for key, got in seen.items() if key not in doomed}
        assert table.rows() == len(known)
        assert sorted(table.all_ids().tolist()) == sorted(known.values())
        saved += table.changes(False)
        if random.random() < 0.3:
            table = GroupTable(KeyTable(SCHEMA), 1)
            table.load(saved)
        live = table.all_ids()
        stored = table.keys.gather(live).to_pylist()
        assert {canonical(tuple(row.values())): i for row, i in zip(stored, live.tolist())} == known
        assert (table.read(live)[:, 0] == live + 1).all()
        check_find(table.keys, known)


def check_find(keys: Any, known: dict[str, int]) -> None:
    every = [(a, b, x) for a in A for b in B for x in L]
    found = keys.find(rows_of(every)).tolist()
    assert found == [known.get(canonical(v), -1) for v in every]


def test_ids_are_used_again() -> None:
    table = GroupTable(KeyTable(pa.schema([("k", pa.int64())])), 2)
    for epoch in range(50):
        ids = table.intern(pa.record_batch({"k": np.arange(1000) + 1000 * epoch}))
        table.open(ids)
        table.free(ids)
        table.commit()
    assert table.rows() == 0
    assert table.keys.capacity <= 2000


def test_no_key_columns_is_one_key() -> None:
    table = GroupTable(KeyTable(pa.schema([])), 1)
    rows = pa.record_batch({"x": [1, 2, 3]})
    assert len(set(table.intern(rows).tolist())) == 1
    table.open(table.intern(rows))
    table.commit()
    other = GroupTable(KeyTable(pa.schema([])), 1)
    other.load(table.changes(True))
    assert other.intern(rows).tolist() == table.intern(rows).tolist()
