"""Micro-benchmarks of the hot tier: hash, index, gather, and the symmetric join on top of them, in batches of 8192 rows.

A round works on a prepared state of `ROWS` rows; rows per second = BATCH / mean time (2 · BATCH for the join).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from forebay.engine.batch import Batch
from forebay.engine.operators.base import Turn
from forebay.engine.operators.join import ArrangeOperator, JoinOperator, JoinSpec
from forebay.engine.state.arrangement import Arrangement
from forebay.engine.state.arrays import hash_rows
from forebay.engine.state.index import RowIndex
from forebay.engine.state.rows import RowStore
from forebay.kernels.newest import newest_write

ROWS = 1 << 20
BATCH = 8192
FOREVER = 2**62
SCHEMA = pa.schema([("k", pa.int64()), ("time", pa.int64()), ("amount", pa.float64()), ("name", pa.string())])
Run = Callable[..., Any]


def relation(seed: int, first: int = 0, count: int = ROWS) -> pa.RecordBatch:
    """Rows with unique keys first .. first + count in random order."""
    random = np.random.default_rng(seed)
    keys = (first + random.permutation(count)) * 7919
    names = pa.array([f"name of {i}" for i in range(1000)]).take(pa.array(random.integers(0, 1000, count)))
    columns = [pa.array(keys), pa.array(np.arange(count)), pa.array(random.random(count)), names]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


@pytest.fixture(scope="module")
def rows() -> pa.RecordBatch:
    return relation(1)


@pytest.fixture(scope="module")
def picked() -> npt.NDArray[np.int64]:
    return np.random.default_rng(2).integers(1, ROWS + 1, BATCH)


@pytest.mark.parametrize("columns", [(0,), (3,), (0, 1, 2, 3)], ids=["int64", "text", "row"])
def test_hash_rows(benchmark: Run, rows: pa.RecordBatch, columns: tuple[int, ...]) -> None:
    assert benchmark(hash_rows, rows.slice(0, BATCH), columns).shape == (BATCH,)


def test_index_insert(benchmark: Run, rows: pa.RecordBatch) -> None:
    """Each round goes on where the last one ended, so growth is part of the mean."""
    index, hashes, state = RowIndex(), hash_rows(rows, (0,)), [0]

    def insert() -> None:
        at = state[0] % ROWS
        index.insert(hashes[at : at + BATCH], np.arange(state[0] + 1, state[0] + BATCH + 1))
        state[0] += BATCH

    benchmark.pedantic(insert, rounds=ROWS // BATCH)  # type: ignore[attr-defined]


@pytest.mark.parametrize("hit", [True, False], ids=["hits", "misses"])
def test_index_probe(benchmark: Run, rows: pa.RecordBatch, picked: npt.NDArray[np.int64], hit: bool) -> None:
    index, hashes, died = RowIndex(), hash_rows(rows, (0,)), np.zeros(64, np.int64)
    index.insert(hashes, np.arange(1, ROWS + 1))
    probed = hashes[picked - 1] if hit else hashes[picked - 1] + np.uint64(1)
    found = benchmark(lambda: list(index.pairs(probed, died, FOREVER, FOREVER, 1 << 16)))
    assert sum(p.size for p, _ in found) == (BATCH if hit else 0)


@pytest.mark.parametrize("column", [0, 2, 3], ids=["int64", "double", "text"])
def test_gather(benchmark: Run, rows: pa.RecordBatch, picked: npt.NDArray[np.int64], column: int) -> None:
    store = RowStore(SCHEMA)
    store.append(rows)
    assert benchmark(store.gather, picked, [column]).num_rows == BATCH


def joined(kind: str, left: Arrangement, right: Arrangement) -> JoinOperator:
    fields = [pa.field(side + f.name, f.type) for side in "lr" for f in SCHEMA]
    return JoinOperator(JoinSpec(kind, (0,), (0,), pa.schema(fields)), left, right)


@pytest.mark.parametrize("kind", ["inner", "left"])
@pytest.mark.parametrize("batch", [8, BATCH], ids=["8_rows", "8192_rows"])
def test_symmetric_join(benchmark: Run, rows: pa.RecordBatch, kind: str, batch: int) -> None:
    """An epoch of `batch` unique keys on each side against equal histories: arrange, join, commit."""
    other = relation(3)
    sides = [ArrangeOperator(Arrangement(SCHEMA, (0,))) for _ in range(2)]
    join = joined(kind, sides[0].arrangement, sides[1].arrangement)
    state, out = [0], [0]

    def epoch() -> None:
        at = state[0] * batch % ROWS
        state[0] += 1
        turn = Turn(state[0], 0, (None, None))
        deltas = [[Batch(rows.slice(at, batch))], [Batch(other.slice(at, batch))]]
        for side, delta in zip(sides, deltas):
            side.process([delta], turn)
        out[0] += sum(b.num_rows for b in join.process(deltas, turn))
        for side in sides:
            side.arrangement.commit()

    benchmark.pedantic(epoch, rounds=ROWS // BATCH)  # type: ignore[attr-defined]
    assert state[0] > 0


def test_retraction(benchmark: Run, rows: pa.RecordBatch) -> None:
    """Update `BATCH` rows of a relation with a primary key: retract, insert, commit."""
    side = ArrangeOperator(Arrangement(SCHEMA, (0,), (0,)))
    side.process([[Batch(rows)]], Turn(1, 0, (None,)))
    side.arrangement.commit()
    state = [1]

    def epoch() -> None:
        state[0] += 1
        delta = rows.slice(state[0] * BATCH % ROWS, BATCH)
        side.process([[Batch(delta).negate(), Batch(delta)]], Turn(state[0], 0, (None,)))
        side.arrangement.commit()

    benchmark.pedantic(epoch, rounds=20)  # type: ignore[attr-defined]
    assert side.arrangement.rows() == ROWS
    assert side.arrangement.unmatched == 0


def test_newest_write(benchmark: Run) -> None:
    """Which of `BATCH` writes of half as many keys win by their versions."""
    rng = np.random.default_rng(0)
    key, version = rng.integers(0, BATCH // 2, BATCH), rng.integers(-1, 9, BATCH)
    puts, last = rng.random(BATCH) < 0.9, np.full(BATCH // 2, -1, np.int64)
    benchmark(lambda: newest_write(key, version, puts, np.full(BATCH // 2, -2, np.int64), last))
    assert (last >= 0).any()
