"""The contract of readers, held against every source: whatever the poll sizes, restarts and limits, the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.connectors import default_registry, topiclog
from forebay.connectors.topiclog.frames import PLAIN
from forebay.connectors.topiclog.store import LogStore, StoreOptions, open_store
from forebay.engine.connector import Reader, Source, TableSpec

from . import plain
from .conftest import table

REGISTRY = plain.register(default_registry())
COLUMNS = {"id": pa.int64(), "name": pa.string()}
ROWS = 230


def log_table(directory: Path) -> TableSpec:
    open_store(str(directory)).options = StoreOptions(segment_bytes=900)
    store: LogStore = open_store(str(directory))
    store.create("t", 3)
    for first in range(0, ROWS, 10):
        values = [b'{"id": %d}' % i if i % 13 else b"bad" for i in range(first, first + 10)]
        times = pa.array(np.zeros(10, np.int64))
        rows = pa.RecordBatch.from_arrays([times, pa.nulls(10, pa.binary()), pa.array(values)], schema=PLAIN)
        store.append({("t", first // 10 % 3): rows})
    options = {"connector": "log", "topic": "t", "format": "plain", "scan.bounded.mode": "latest-offset"}
    return table(COLUMNS, options, warehouse=str(directory))


def lines_table(directory: Path) -> TableSpec:
    for name in ("a", "b", "c"):
        lines = [b'{"id": %d}' % i if i % 7 else b"" if i % 2 else b"bad" for i in range(ROWS // 3)]
        (directory / name).write_bytes(b"\n".join(lines))
    return table(COLUMNS, {"connector": "filesystem", "path": str(directory), "format": "plain"})


def parquet_table(directory: Path) -> TableSpec:
    for name in ("a", "b"):
        data = pa.table({"id": list(range(ROWS // 2)), "name": [f"{name}{i}" for i in range(ROWS // 2)]})
        pq.write_table(data, directory / name, row_group_size=17)
    return table(COLUMNS, {"connector": "filesystem", "path": str(directory), "format": "parquet"})


def datagen_table(directory: Path) -> TableSpec:
    return table(COLUMNS, {"connector": "datagen", "number-of-rows": str(ROWS), "rows-per-second": "0"})


MAKERS: dict[str, Callable[[Path], TableSpec]] = {
    "log": log_table,
    "lines": lines_table,
    "parquet": parquet_table,
    "datagen": datagen_table,
}


@pytest.fixture(params=sorted(MAKERS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    spec = MAKERS[request.param](tmp_path)
    factory = REGISTRY.connector(spec.options["connector"]).source
    assert factory is not None
    yield factory(spec)
    topiclog.forget_memory()


class Seen:
    """What readers have given: rows and dead letters, in order per split."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[Any, ...]]] = {}
        self.dead: Counter[tuple[str, int, int]] = Counter()

    def poll(self, reader: Reader, size: int) -> None:
        fetched = reader.poll(size, 0)
        if fetched is None:
            return
        names, n = reader.splits(), fetched.batch.num_rows
        splits = np.zeros(n, int) if fetched.split is None else fetched.split
        assert len(splits) == n
        for split, row in zip(splits, fetched.batch.rows.to_pylist()):
            self.rows.setdefault(names[split], []).append(tuple(row.values()))
        self.dead.update((d.source, d.partition, d.offset) for d in fetched.dead)

    def drain(self, reader: Reader, size: int) -> None:
        while not reader.finished():
            self.poll(reader, size)


def whole(source: Source) -> Seen:
    seen = Seen()
    seen.drain(source.reader(None), 1000)
    return seen


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_restarts_repeat_nothing_and_skip_nothing(source: Source, sizes: list[int]) -> None:
    expected, seen = whole(source), Seen()
    reader = source.reader(None)
    for size in sizes:
        seen.poll(reader, size)
        positions = reader.positions()
        reader.close()
        reader = source.reader(positions)
        assert reader.positions() == positions
    seen.drain(reader, 1000)
    assert seen.rows == expected.rows
    assert seen.dead == expected.dead


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 90), min_size=1, max_size=6), st.integers(1, 90))
def test_a_late_reader_stops_exactly_where_a_shared_one_stands(source: Source, sizes: list[int], step: int) -> None:
    shared, before = source.reader(None), Seen()
    for size in sizes:
        before.poll(shared, size)
    late, caught_up = source.reader(None), Seen()
    late.limit(shared.positions())
    caught_up.drain(late, step)
    assert caught_up.rows == before.rows
    assert caught_up.dead == before.dead
    assert late.positions() == shared.positions()
    late.limit(None)
    before.drain(shared, 1000)
    caught_up.drain(late, 1000)
    assert caught_up.rows == before.rows == whole(source).rows


def test_schema_and_bounds(source: Source) -> None:
    assert source.bounded
    fetched = source.reader(None).poll(10, 0)
    assert fetched is not None
    assert fetched.batch.schema.equals(source.schema)
    assert fetched.records >= fetched.batch.num_rows
