"""A source of numbered rows in memory, a counting state, and plans over them: the runtime without SQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Fetched, Position, Reader, Sink, Source
from forebay.engine.operators.base import Operator, Turn
from forebay.engine.runtime.outbox import Outbox, OutboxSpec, Outlet, StreamOutlet
from forebay.engine.runtime.plan import OperatorStep, OutputStep, ScanStep, Step
from forebay.engine.runtime.scan import ScanSpec
from forebay.engine.state import State

SCHEMA = pa.schema([("k", pa.int64()), ("v", pa.int64())])


class Numbers:
    """Two splits of rows (k = row number mod 7, v = row number); `available` rows may be read of each."""

    def __init__(self, total: int, available: int | None = None, bounded: bool = True) -> None:
        self.total = total
        self.available = total if available is None else available
        self.bounded = bounded
        self.opened = 0


class NumbersReader(Reader):
    def __init__(self, numbers: Numbers, positions: Mapping[str, Position] | None) -> None:
        self.numbers = numbers
        self.at = dict(positions or {"a": 0, "b": 0})
        self.limits: dict[str, int] | None = None
        numbers.opened += 1

    def splits(self) -> Sequence[str]:
        return ["a", "b"]

    def _end(self, split: str) -> int:
        end = min(self.numbers.available, self.numbers.total)
        return end if self.limits is None else min(end, self.limits.get(split, 0))

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        ks, splits = [], []
        for index, split in enumerate(self.splits()):
            count = max(0, min(max_rows // 2, self._end(split) - self.at[split]))
            rows = np.arange(self.at[split], self.at[split] + count) * 2 + index
            ks.append(rows)
            splits.append(np.full(count, index, np.int32))
            self.at[split] += count
        values = np.concatenate(ks)
        if not values.size:
            return None
        rows = pa.RecordBatch.from_arrays([pa.array(values % 7), pa.array(values)], schema=SCHEMA)
        return Fetched(Batch(rows), np.concatenate(splits), records=values.size)

    def positions(self) -> dict[str, Position]:
        return dict(self.at)

    def finished(self) -> bool:
        return all(self.at[s] >= (self.numbers.total if self.limits is None else self._end(s)) for s in self.at)

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self.limits = None if positions is None else dict(positions)


class NumbersSource(Source):
    schema = SCHEMA
    changelog = Changelog.APPEND

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.bounded = numbers.bounded

    def reader(self, positions: Mapping[str, Position] | None) -> Reader:
        return NumbersReader(self.numbers, positions)


class SumState(State):
    """Sum of v per k."""

    def __init__(self) -> None:
        self.sums: dict[int, int] = {}
        self.before: dict[int, int] = {}
        self.dirty: set[int] = set()

    def add(self, k: int, v: int) -> None:
        self.sums[k] = self.sums.get(k, 0) + v
        self.dirty.add(k)

    def nbytes(self) -> int:
        return 16 * len(self.sums)

    def rows(self) -> int:
        return len(self.sums)

    def commit(self) -> None:
        self.before = dict(self.sums)

    def rollback(self) -> None:
        self.sums = dict(self.before)

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        keys = sorted(self.sums if full else self.dirty)
        self.dirty = set()
        return [_batch([(k, self.sums[k], 1) for k in keys]).rows]

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        for batch in batches:
            self.sums.update(zip(batch.column(0).to_pylist(), batch.column(1).to_pylist()))
        self.commit()


class SumOperator(Operator):
    """Maintains sum(v) by k; raises while `broken` holds a value that a row has."""

    schema = SCHEMA

    def __init__(self, broken: set[int] | None = None, holds: bool = True) -> None:
        self.state = SumState()
        self.broken = broken if broken is not None else set()
        if holds:
            self.contents = self._contents

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        before = dict(self.state.sums)
        for batch in inputs[0]:
            for k, v, w in zip(
                batch.rows.column(0).to_pylist(), batch.rows.column(1).to_pylist(), batch.weight_array()
            ):
                self.state.add(k, v * int(w))
                if v in self.broken:
                    raise ValueError(f"cannot take {v}")
        changed = [k for k in self.state.sums if self.state.sums[k] != before.get(k)]
        rows = [(k, before[k], -1) for k in changed if k in before] + [(k, self.state.sums[k], 1) for k in changed]
        return [_batch(rows)] if rows else []

    def _contents(self) -> Iterator[Batch]:
        yield _batch([(k, v, 1) for k, v in self.state.sums.items()])

    def states(self) -> Mapping[str, State]:
        return {"sums": self.state}


def _batch(rows: Sequence[tuple[int, int, int]]) -> Batch:
    columns = [pa.array([r[i] for r in rows], pa.int64()) for i in (0, 1)]
    return Batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA), np.array([r[2] for r in rows], np.int64))


class Collected:
    """Consolidated rows that a job gave out."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], int] = {}

    def take(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            for row, weight in zip(batch.rows.to_pylist(), batch.weight_array()):
                key = (row["k"], row["v"])
                self.rows[key] = self.rows.get(key, 0) + int(weight)
                if not self.rows[key]:
                    del self.rows[key]

    def outlet(self) -> Outlet:
        return StreamOutlet(self.take, lambda: None)


class MemorySink(Sink):
    """Keeps committed rows in a shared list; fails when told to."""

    remembers = True

    def __init__(self, world: SinkWorld) -> None:
        self.world = world
        self.pending: list[tuple[int, int]] = []

    def recover(self) -> int | None:
        return self.world.last

    def write(self, batch: Batch) -> None:
        self.world.check("write")
        self.pending += [(r["k"], r["v"]) for r in batch.rows.to_pylist()]

    def commit(self, checkpoint: int) -> None:
        self.world.check("commit")
        self.world.rows += self.pending
        self.pending = []
        self.world.last = checkpoint
        self.world.check("committed")


class SinkWorld:
    """What outlives a sink: its committed rows and last id. `faults` names calls that fail once."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []
        self.last: int | None = None
        self.faults: list[str] = []

    def check(self, place: str) -> None:
        if self.faults and self.faults[0] == place:
            self.faults.pop(0)
            raise ConnectionError(place)


def scan(numbers: Numbers, key: str | None = "numbers") -> ScanStep:
    return ScanStep(
        SCHEMA, "scan", "Scan", key, ScanSpec("numbers", lambda columns: NumbersSource(numbers), SCHEMA, None)
    )


def total(source: Step, key: str | None = "sum", broken: set[int] | None = None, holds: bool = True) -> OperatorStep:
    return OperatorStep(SCHEMA, "sum", "Sum", key, (source,), lambda _: SumOperator(broken, holds))


def output(source: Step, collected: Collected) -> OutputStep:
    return OutputStep(SCHEMA, "out", "Out", None, source, collected.outlet)


def into(source: Step, spec: OutboxSpec, next_id: int = 1, restored: list[int] | None = None) -> OutputStep:
    return OutputStep(SCHEMA, "out", "Sink", None, source, lambda: Outbox(spec, next_id, restored))


def expected_sums(count: int) -> dict[tuple[int, int], int]:
    """The right answer after `count` rows of each split."""
    sums: dict[int, int] = {}
    for v in range(2 * count):
        sums[v % 7] = sums.get(v % 7, 0) + v
    return dict.fromkeys(sums.items(), 1)
