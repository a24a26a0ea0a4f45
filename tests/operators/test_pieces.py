"""Joins in pieces by key: the same answer, and no block is read twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from forebay.engine.batch import Batch
from forebay.engine.operators.base import Turn
from forebay.engine.operators.join import ArrangeOperator, JoinOperator, JoinSpec
from forebay.engine.operators.pieces import Pieces, _in_order
from forebay.engine.operators.side import Side
from forebay.engine.state.arrangement import Arrangement
from forebay.engine.state.coldstore import ColdStore
from tests.operators import test_join
from tests.operators.test_join import KINDS
from tests.state.test_tiers import close_chunk

SCHEMA = pa.schema([("k", pa.int64()), ("text", pa.string())])
ROWS, CHANGED = 40_000, 6000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maker", ["int", "wide", "cross"])
def test_divided_joins_equal_whole_ones(kind: str, maker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a join by nested loops."""

    def always(self: Pieces, left: Side, right: Side) -> Iterator[tuple[Side, Side]]:
        yield from self._divided(left, right, 3)

    monkeypatch.setattr(Pieces, "__call__", always)
    test_join.run(kind, maker, 31)
    if maker != "cross":
        test_join.run(kind, maker, 32, residual=True)
        test_join.run(kind, maker, 33, nulls=True, restart=True)


def rows_of(keys: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Batch:
    return Batch(pa.RecordBatch.from_arrays([pa.array(keys), pa.array([f"{k:0200d}" for k in keys])], schema=SCHEMA))


def test_a_block_is_read_once(store: ColdStore) -> None:
    """A left join whose right side finds more cold rows than stay in memory. The epoch before tells how many there will be."""
    store.cache = 1 << 20
    sides = [ArrangeOperator(Arrangement(SCHEMA, (0,))) for _ in range(2)]
    left = sides[0].arrangement
    left.use(store)
    join = JoinOperator(
        JoinSpec("left", (0,), (0,), test_join.output_schema("left", SCHEMA, SCHEMA)), left, sides[1].arrangement
    )
    everything = np.random.default_rng(0).permutation(ROWS)
    epochs = [
        (everything, everything[:0]),
        (everything[:0], everything[:1]),
        *((everything[:0], everything[i::7][:CHANGED]) for i in (1, 2)),
    ]
    reads = []
    for number, keys in enumerate(epochs, 1):
        deltas, turn = [[rows_of(k)] if k.size else [] for k in keys], Turn(number, 0, (None, None))
        before = store.read_blocks
        for side, delta in zip(sides, deltas):
            side.process([delta], turn)
        out = join.process(deltas, turn)
        reads.append(store.read_blocks - before)
        assert sum(int(b.weight_array().sum()) for b in out) == (ROWS if number == 1 else 0)
        for side in sides:
            side.arrangement.commit()
        if number == 1:
            close_chunk(left)
            left.seal(1.0)
            while left.maintain():
                pass
    (segment,) = left.cold_segments()
    blocks = segment.fences.shape[0]
    assert reads[1] == 1
    assert all(blocks / 2 < n <= blocks + 100 for n in reads[2:]), f"{reads} of {blocks}"
    join.close()


def test_columns_that_are_one_are_put_in_order_once_and_others_by_themselves() -> None:
    n = 1000
    order = np.random.default_rng(3).permutation(n)
    columns = {
        "a": pa.array(range(n)),
        "list": pa.array([[i] for i in range(n)]),
        "other": pa.array([[-i] for i in range(n)]),
        "coded": pa.array([f"{i % 7}" for i in range(n)]).dictionary_encode(),
        "text": pa.array([f"t{i}" for i in range(n)]),
    }
    rows = pa.RecordBatch.from_pydict(columns)
    stored, weights = Batch(rows, np.arange(1, n + 1)), np.arange(n, 0, -1)
    made = pa.array([i / 2 for i in range(n)])
    shown = pa.RecordBatch.from_arrays(
        [rows.column(4), made, rows.column(2), rows.column(1), rows.column(3), rows.column(0)], names=list("tmolca")
    )
    ordered = stored.take(order)
    found = _in_order(Batch(shown, weights), stored, ordered, order)
    assert found.rows.equals(shown.take(pa.array(order)))
    assert found.weights is not None and (found.weights == weights[order]).all()
    assert found.rows.column(0).buffers()[1].address == ordered.rows.column(4).buffers()[1].address
    only = _in_order(Batch(shown.select(["t", "a"])), stored, ordered, order)
    assert only.rows.equals(shown.select(["t", "a"]).take(pa.array(order))) and only.weights is None
