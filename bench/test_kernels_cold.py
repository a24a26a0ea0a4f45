"""Micro-benchmarks of the cold tier: writing a segment, merging two, and finding rows that only the disk has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bench.test_kernels_join import SCHEMA, relation
from forebay.engine.state.arrays import hash_rows
from forebay.engine.state.cold import ColdRows
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.segment import Segment
from forebay.kernels import extents as kernels

ROWS = 1 << 18
BATCH = 2048
Run = Callable[..., Any]


@pytest.fixture
def cold() -> Iterator[ColdRows]:
    store = ColdStore(None)
    yield ColdRows(SCHEMA, store)
    store.close()


def segment(cold: ColdRows, number: int) -> Segment:
    """Of `ROWS` rows."""
    rows = relation(number, number * ROWS, ROWS)
    hashes = hash_rows(rows, (0,))
    order = np.argsort(hashes)
    builder = cold.builder(ROWS)
    builder.add(rows.take(order), hashes[order], order + number * ROWS + 1)
    return builder.finish()


def test_write(benchmark: Run, cold: ColdRows) -> None:
    assert benchmark.pedantic(segment, (cold, 1), rounds=5).rows == ROWS  # type: ignore[attr-defined]


def test_merge(benchmark: Run, cold: ColdRows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two segments into one."""
    monkeypatch.setattr("forebay.engine.state.cold.FAN", 2)

    def merge() -> None:
        while cold.maintain():
            pass

    def two() -> None:
        cold.close()
        for number in (1, 2):
            cold.add(segment(cold, number))

    benchmark.pedantic(merge, setup=two, rounds=3)  # type: ignore[attr-defined]
    assert [s.rows for s in cold.segments.values()] == [2 * ROWS]


@pytest.mark.parametrize("how", ["direct", "rocksdb"])
def test_find_on_disk(benchmark: Run, cold: ColdRows, how: str) -> None:
    """`BATCH` rows, each in another block, that the page cache does not have: as they are read, and with RocksDB's `get`."""
    cold.add(segment(cold, 1))
    (found,) = cold.segments.values()
    hashes = np.ascontiguousarray(hash_rows(relation(1, ROWS, ROWS), (0,))[:: ROWS // BATCH])
    if how == "rocksdb":
        found.places.extents = None

    def forget() -> None:
        while cold.store._cached:
            cold.store._evict()
        for path in cold.store._files_of(found.number):
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)

    def find() -> int:
        return sum(ids.shape[0] for _, _, ids in cold.find(hashes))

    assert benchmark.pedantic(find, setup=forget, rounds=10) == BATCH  # type: ignore[attr-defined]


@pytest.mark.parametrize("kernel", ["plan", "settle", "put_sums"])
def test_entries(benchmark: Run, kernel: str) -> None:
    """`BATCH` blocks of 4 KB: which pages to read, whether they are whole, and their checksums."""
    size, entry = 128 * kernels.WORDS + kernels.CHECK, 4160
    n = np.arange(BATCH)
    starts = n * entry
    data = np.zeros(BATCH * entry, np.uint8)
    of_entry = data.reshape(BATCH, entry)
    of_entry[:, 1], of_entry[:, 2], of_entry[:, 3] = kernels.KEY + 8, size & 127 | 128, size >> 7
    values = data.ctypes.data + starts + 4 + kernels.KEY + 8
    sizes = np.full(BATCH, size)
    kernels.put_sums(values, sizes - kernels.CHECK, sizes)
    ends = starts + 4 + kernels.KEY + 8 + size + kernels.AFTER
    if kernel == "put_sums":
        benchmark(kernels.put_sums, values, sizes - kernels.CHECK, sizes)
    elif kernel == "plan":
        out = [np.empty(BATCH, np.int64) for _ in range(6)]
        assert benchmark(kernels.plan, n * 0, starts * 9, starts * 9 + entry, *out) == BATCH
    else:
        target, out, zero = np.empty(BATCH * entry, np.uint8), np.empty(BATCH, np.int64), np.zeros(BATCH, np.uint64)
        copied = benchmark(kernels.settle, data.ctypes.data, starts, ends, zero, zero, target.ctypes.data, out)
        assert copied == BATCH * size and out.all()
