"""Window tables and window aggregates: bounds by plain arithmetic, closing and lateness by a model of the watermark."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine.errors import UnsupportedError
from forebay.engine.operators.accumulators import CallSpec
from forebay.engine.operators.aggregate import AggregateSpec
from forebay.engine.operators.base import MAX_WATERMARK, Operator
from forebay.engine.operators.window import WindowAggregateOperator, WindowTableOperator, WindowTableSpec
from tests.operators.changelogs import Row, batch_of, canonical, net, restored, save, turn

SECOND = 10**6
EPOCH = datetime(1970, 1, 1)


def micros(value: datetime) -> int:
    return (value.replace(tzinfo=None) - EPOCH) // timedelta(microseconds=1)


def instant(value: int, zone: Any = None) -> datetime:
    return (EPOCH + timedelta(microseconds=value)).replace(tzinfo=zone)


def table_schema(kind: pa.DataType) -> pa.Schema:
    bounds = [pa.field(n, kind, False) for n in ("window_start", "window_end", "window_time")]
    return pa.schema([("v", pa.int64()), ("ts", kind), *bounds])


def expected_windows(kind: str, time: int, size: int, slide: int, offset: int) -> list[tuple[int, int]]:
    """Every (start, end) that covers a time, by trying all windows nearby."""
    windows = []
    step = slide if kind == "HOP" else size
    far = 60 * SECOND // step * step
    for start in range(offset - far, offset + far, step):
        ends = range(start + slide, start + size + 1, slide) if kind == "CUMULATE" else [start + size]
        windows += [(start, end) for end in ends if start <= time < end]
    return windows


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("kind", ["TUMBLE", "HOP", "CUMULATE"])
@given(
    times=st.lists(st.integers(-25_000, 25_000), min_size=1, max_size=20),
    parts=st.integers(1, 4),
    slide=st.integers(1, 4),
    offset=st.integers(-3, 3),
    extra=st.integers(0, 1),
)
def test_bounds(unit: str, kind: str, times: list[int], parts: int, slide: int, offset: int, extra: int) -> None:
    """Negative times, offsets, sizes that the slide does not divide."""
    slide_us, offset_us = slide * SECOND, offset * SECOND
    size = slide_us * parts + (extra * SECOND if kind == "HOP" else 0)
    schema = table_schema(pa.timestamp(unit, tz="UTC"))
    spec = WindowTableSpec(kind, 1, size, schema, slide_us, offset_us)
    rows: list[Row] = [(i, instant(t * 1000, UTC)) for i, t in enumerate(times)]
    operator = WindowTableOperator(spec)
    output = operator.process([[batch_of(pa.schema(list(schema)[:2]), [(r, -1) for r in rows])]], turn())
    expected: Counter[Any] = Counter()
    for i, t in enumerate(times):
        for start, end in expected_windows(kind, t * 1000, size, slide_us if kind != "TUMBLE" else size, offset_us):
            expected[(i, rows[i][1], *(instant(x, UTC) for x in (start, end, end - 1000)))] -= 1
    assert net(output) == expected
    for batch in output:
        assert batch.rows.schema.equals(schema)


def test_null_times_belong_to_no_window() -> None:
    schema = table_schema(pa.timestamp("ms"))
    operator = WindowTableOperator(WindowTableSpec("TUMBLE", 1, 10 * SECOND, schema))
    changes: list[tuple[Row, int]] = [((1, None), 1), ((2, instant(0)), 1)]
    output = operator.process([[batch_of(pa.schema(list(schema)[:2]), changes)]], turn())
    assert net(output) == {(2, instant(0), instant(0), instant(10 * SECOND), instant(10 * SECOND - 1000)): 1}
    assert operator.metrics == {"null_times": 1}


def test_session_windows_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="SESSION"):
        WindowTableOperator(WindowTableSpec("SESSION", 1, SECOND, table_schema(pa.timestamp("ms"))))


INPUT = pa.schema([("k", pa.string()), ("v", pa.int64()), ("s", pa.string()), ("end", pa.timestamp("ms"))])
CALLS = (
    CallSpec("count", (), pa.int64()),
    CallSpec("sum", (1,), pa.int64()),
    CallSpec("max", (2,), pa.string()),
    CallSpec("count", (2,), pa.int64(), distinct=True),
)


def make(append_only: bool) -> WindowAggregateOperator:
    fields = [INPUT.field(0), INPUT.field(3), *(pa.field(f"a{i}", c.type) for i, c in enumerate(CALLS))]
    return WindowAggregateOperator(AggregateSpec(INPUT, (0, 3), CALLS, pa.schema(fields), append_only), 3)


def model(rows: Counter[Row], until: int) -> Counter[Any]:
    """The groups whose windows close by `until`."""
    groups: dict[tuple[Any, Any], list[Row]] = {}
    for row in rows.elements():
        if micros(row[3]) <= until:
            groups.setdefault((row[0], row[3]), []).append(row)
    result: Counter[Any] = Counter()
    for key, members in groups.items():
        values = [r[1] for r in members if r[1] is not None]
        texts = [r[2] for r in members if r[2] is not None]
        aggregates = (len(members), sum(values) if values else None, max(texts, default=None), len(set(texts)))
        result[(*key, *aggregates)] += 1
    return result


@pytest.mark.parametrize("append_only", [False, True], ids=["retract", "append"])
@given(seed=st.integers(0, 2**32), restart=st.integers(0, 12), size=st.integers(0, 12))
def test_groups_come_once_as_they_close(append_only: bool, seed: int, restart: int, size: int) -> None:
    random = Random(seed)
    operator: Operator = make(append_only)
    open_rows: Counter[Row] = Counter()
    watermark, late, closed = None, 0, -(2**63)
    saved = [save(operator, True)]
    for epoch in range(12):
        if epoch == restart:
            operator, late = restored(lambda: make(append_only), saved), 0
        if random.random() < 0.6:
            watermark = max(closed, random.randint(-5, 5 + epoch) * SECOND)
        if epoch == 11:
            watermark = MAX_WATERMARK
        changes: list[tuple[Row, int]] = []
        for _ in range(size):
            end = instant(random.randint(-4, 8 + epoch) * SECOND)
            row = (random.choice(["a", "b", None]), random.choice([1, 2, None]), random.choice(["x", "y", None]), end)
            changes.append((row, 1))
        if not append_only:
            changes += [(row, -1) for row in open_rows.elements() if random.random() < 0.3]
        for again in (True, False):
            output = operator.process([[batch_of(INPUT, changes)]], turn(watermark=watermark))
            for state in operator.states().values():
                state.rollback() if again else state.commit()
        saved.append(save(operator, False))
        for row, weight in changes:
            if micros(row[3]) <= closed:
                late += 1
            else:
                open_rows[row] += weight
        closed = watermark if watermark is not None else closed
        expected = model(open_rows, closed)
        open_rows = Counter({row: n for row, n in open_rows.items() if n and micros(row[3]) > closed})
        assert net(output) == Counter({canonical(row): n for row, n in expected.items()})
        assert isinstance(operator, WindowAggregateOperator)
        assert operator.metrics == {"late_rows": late, "null_times": 0, "retractions_unmatched": 0}
    assert all(state.rows() == 0 for name, state in operator.states().items() if name != "closed")
