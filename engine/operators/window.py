"""Window tables and window aggregation: event time cut into windows, each shown once, when the watermark passes its end.

WindowTable adds window_start, window_end and window_time (the end less 1 ms) to every row: TUMBLE gives a row one window, HOP
and CUMULATE one row per window that covers it. WindowAggregate groups by them and emits a group when it closes, then forgets
it; rows of closed windows are late: dropped and counted. A window [start, end) is closed once the watermark is at least end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.errors import UnsupportedError
from forebay.engine.operators.aggregate import EXTRA, AggregateSpec, Aggregation
from forebay.engine.operators.base import Carried, Operator, Turn
from forebay.engine.state import State
from forebay.engine.state.arrays import fixed_array, is_null, raw
from forebay.engine.state.groups import UNMATCHED, Ids

Micros = npt.NDArray[np.int64]

LATE = "late_rows"
NULL_TIMES = "null_times"
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MILLISECOND = 1000
_NEVER = -(2**63)


@dataclass(frozen=True, slots=True)
class WindowTableSpec:
    """`kind` is TUMBLE, HOP or CUMULATE; times in µs. `slide` is HOP's slide or CUMULATE's step.

    `schema` is the input's, plus window_start, window_end and window_time.
    """

    kind: str
    time_column: int
    size: int
    schema: pa.Schema
    slide: int | None = None
    offset: int = 0


class WindowTableOperator(Operator):
    """TUMBLE, HOP, CUMULATE. Rows whose time is NULL belong to no window: dropped and counted."""

    pure = True

    def __init__(self, spec: WindowTableSpec) -> None:
        if spec.kind not in ("TUMBLE", "HOP", "CUMULATE"):
            raise UnsupportedError(f"{spec.kind} windows cannot run yet", hint="use TUMBLE, HOP or CUMULATE")
        self.schema = spec.schema
        self.metrics = {NULL_TIMES: 0}
        self._spec = spec

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        return [self._windowed(b) for b in inputs[0] if b.num_rows]

    def _windowed(self, batch: Batch) -> Batch:
        column = batch.rows.column(self._spec.time_column)
        if column.null_count:
            self.metrics[NULL_TIMES] += column.null_count
            batch = batch.take(np.flatnonzero(~is_null(column)))
            column = batch.rows.column(self._spec.time_column)
        rows, starts, ends = _assign(self._spec, to_micros(column))
        if rows is not None:
            batch = batch.take(rows)
        bounds = (starts, ends, ends - _MILLISECOND)
        fields = list(self.schema)[-3:]
        added = [from_micros(values, field.type) for values, field in zip(bounds, fields)]
        return batch.with_rows(pa.RecordBatch.from_arrays([*batch.rows.columns, *added], schema=self.schema))


def _assign(spec: WindowTableSpec, times: Micros) -> tuple[Ids | None, Micros, Micros]:
    """(row, start, end) of every window that covers a row; row None: each row has one window, in order."""
    slide = spec.size if spec.slide is None else spec.slide
    if spec.kind == "TUMBLE":
        starts = _floor(times, spec.size, spec.offset)
        return None, starts, starts + spec.size
    if spec.kind == "HOP":
        newest = _floor(times, slide, spec.offset)
        back = np.arange(0, spec.size, slide)
        starts = newest[:, None] - back
        inside = starts + spec.size > times[:, None]
        return np.nonzero(inside)[0], starts[inside], starts[inside] + spec.size
    starts = _floor(times, spec.size, spec.offset)
    ends = starts[:, None] + np.arange(slide, spec.size + 1, slide)
    inside = ends > times[:, None]
    rows = np.nonzero(inside)[0]
    return rows, starts[rows], ends[inside]


def _floor(times: Micros, size: int, offset: int) -> Micros:
    return (times - offset) // size * size + offset


def to_micros(column: pa.Array) -> Micros:
    """A timestamp column as µs, rounded down."""
    per_second = _PER_SECOND[column.type.unit]
    values = raw(column)
    return values // (per_second // 10**6) if per_second > 10**6 else values * (10**6 // per_second)


def from_micros(values: Micros, kind: pa.DataType) -> pa.Array:
    """µs as a timestamp column."""
    per_second = _PER_SECOND[kind.unit]
    scaled = values * (per_second // 10**6) if per_second > 10**6 else values // (10**6 // per_second)
    return fixed_array(scaled, None, kind)


class ClosedUntil(State):
    """The watermark up to which windows have been closed: what is older is late.

    `earliest` is a time before which no open group ends, or None if it has to be looked up.
    """

    def __init__(self) -> None:
        self.value = _NEVER
        self.earliest: int | None = None
        self._committed = _NEVER

    def nbytes(self) -> int:
        return 8

    def rows(self) -> int:
        return 1

    def commit(self) -> None:
        self._committed = self.value

    def rollback(self) -> None:
        self.value = self._committed
        self.earliest = None

    def changes(self, full: bool) -> list[pa.RecordBatch]:
        return [pa.record_batch({"closed_until": pa.array([self.value], pa.int64())})]

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        for batch in batches:
            self.value = self._committed = batch.column(0)[0].as_py()


class WindowAggregateOperator(Operator):
    """GROUP BY window bounds: each group once, as it closes. `window_end` is the input column with the end of its window."""

    holds_back = True

    def __init__(self, spec: AggregateSpec, window_end: int) -> None:
        self.schema = spec.schema
        self._window_end = window_end
        self.groups = Aggregation(spec, extra=1)
        self._closed = ClosedUntil()

    def process(self, inputs: Sequence[list[Batch]], turn: Turn) -> list[Batch]:
        batches = [b for b in (self._in_time(b) for b in inputs[0] if b.num_rows) if b.num_rows]
        if batches:
            delta, opened = self.groups.locate(batches)
            ends = np.concatenate([to_micros(b.rows.column(self._window_end)) for b in batches])
            self.groups.table.words[opened.ids, EXTRA] = ends[opened.first]
            self.groups.feed(delta, opened)
            if self._closed.earliest is not None:
                self._closed.earliest = min(self._closed.earliest, int(ends.min()))
        watermark = turn.watermarks[0]
        if watermark is None or watermark <= self._closed.value:
            return []
        self._closed.value = watermark
        return self._close(watermark)

    def _in_time(self, batch: Batch) -> Batch:
        """The rows of windows that are still open; the others are counted."""
        column = batch.rows.column(self._window_end)
        null = is_null(column)
        late = ~null & (to_micros(column) <= self._closed.value)
        if not null.any() and not late.any():
            return batch
        self.groups.table.counters[NULL_TIMES] += int(null.sum())
        self.groups.table.counters[LATE] += int(late.sum())
        return batch.take(np.flatnonzero(~(null | late)))

    def _close(self, watermark: int) -> list[Batch]:
        if self._closed.earliest is not None and self._closed.earliest > watermark:
            return []
        table = self.groups.table
        closed = [Batch(self.groups.apart(found)) for found in table.take_due(watermark)]
        ids = table.all_ids()
        words = table.read(ids)
        live = self.groups.shown(words)
        ends = words[:, EXTRA]
        due = live & (ends <= watermark)
        self._closed.earliest = int(ends[live & ~due].min(initial=table.least_cold()))
        if not due.any():
            return closed
        groups = ids[due]
        view = self.groups.view(words[due], groups)
        results = self.groups.results(view, self.groups.collections(groups))
        rows = self.groups.rows(groups, results)
        table.open(groups)
        self.groups.drop(groups)
        return [*closed, Batch(rows)]

    @property
    def metrics(self) -> dict[str, int]:
        """Counters since the operator was made."""
        counters = self.groups.table.counters
        return {LATE: int(counters[LATE]), NULL_TIMES: int(counters[NULL_TIMES]), UNMATCHED: self.groups.unmatched}

    def carried(self, number: int, rows: pa.RecordBatch) -> list[Carried]:
        return self.groups.carried(rows)

    def states(self) -> Mapping[str, State]:
        return {"closed": self._closed, **self.groups.states()}
