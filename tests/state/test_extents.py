"""Blocks read from where they lie in table files, and the reads below them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.engine.state import aio
from forebay.engine.state.aio import Aio, buffer
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.extents import Addresses, BlockReader, Extents, Wanted, locate
from forebay.engine.state.segment import Builder
from forebay.kernels import extents as kernels
from forebay.kernels.extents import CHECK, PAGE, WORDS

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


def value(rng: np.random.Generator, size: int) -> Bytes:
    """A value as the builder of segments makes it: so many bytes at least, and their checksum."""
    whole = -(-size // WORDS) * WORDS + CHECK
    data = np.zeros(whole, np.uint8)
    data[:size] = rng.integers(1, 256, size)
    kernels.put_sums(np.array([data.ctypes.data]), np.array([size]), np.array([whole]))
    return data


def written(store: ColdStore, sizes: list[int]) -> tuple[Addresses, list[Bytes]]:
    """A segment of values of about these sizes."""
    rng, segment = np.random.default_rng(len(sizes)), store.new_segment()
    values = [value(rng, size) for size in sizes]
    writer = store.writer(segment)
    for begin in range(0, len(values), 7):
        part = values[begin : begin + 7]
        writer.put(np.concatenate(part), np.cumsum([v.shape[0] for v in part]))
    extents = writer.extents()
    writer.finish(b"footer")
    return Addresses(segment, len(values), extents), values


SIZES = [1, 90, 119, 120, 128, 4000, 5000, 16_300, 16_384, 20_000, 3_000_000, 40, *range(0, 6000, 37)]


@pytest.mark.parametrize("file_bytes", [1, 30_000, 1 << 30])
def test_every_block_is_found_where_it_lies(store: ColdStore, monkeypatch: pytest.MonkeyPatch, file_bytes: int) -> None:
    monkeypatch.setattr("forebay.engine.state.coldstore._FILE_BYTES", file_bytes)
    parts = [written(store, SIZES), written(store, SIZES[::-1]), written(store, [10])]
    assert all(p.extents is not None and (len(p.extents.firsts) > 1) == (file_bytes < 1 << 30) for p, _ in parts[:2])
    reader = BlockReader(store._files_of)
    for step in (1, 2, 50):
        wanted = [(places, np.arange(0, len(values), step)) for places, values in parts]
        asked = reader.ask(Wanted.of(wanted))
        assert asked is not None
        data, at = reader.take(asked)
        assert data.nbytes >= sum(v.shape[0] for _, values in parts for v in values[::step])
        expected = [v for _, values in parts for v in values[::step]]
        assert at.all()
        assert all(ctypes.string_at(int(a), v.shape[0]) == v.tobytes() for a, v in zip(at, expected))
    reader.close()


def test_what_is_damaged_or_another_block_is_not_believed(store: ColdStore) -> None:
    places, _ = written(store, [500] * 60)
    (path,) = store._files_of(places.segment)
    assert places.extents is not None
    whole = bytearray(path.read_bytes())
    whole[int(places.extents.starts[7]) + 100] ^= 1
    whole[int(places.extents.starts[9]) + 10] ^= 1  # its key
    path.write_bytes(whole)
    moved = Addresses(places.segment, 60, Extents(places.extents.starts.copy(), [0], places.extents.ends))
    assert moved.extents is not None
    moved.extents.starts[20] = moved.extents.starts[21]
    for segment, bad in ((places, [7, 9]), (moved, [7, 9, 19, 20])):
        reader = BlockReader(store._files_of)
        asked = reader.ask(Wanted.of([(segment, np.arange(60))]))
        assert asked is not None
        _, at = reader.take(asked)
        found = np.flatnonzero(at == 0).tolist()
        assert found == bad if segment is places else set(bad) - {19} <= set(found) <= set(bad)
        reader.close()
    path.write_bytes(whole[: int(places.extents.starts[30])])  # cut short
    reader = BlockReader(store._files_of)
    asked = reader.ask(Wanted.of([(places, np.arange(25, 35))]))
    assert asked is not None
    assert [bool(a) for a in reader.take(asked)[1]] == [True] * 5 + [False] * 5
    reader.close()


def test_a_file_system_without_direct_reads_leaves_them_to_rocksdb(
    store: ColdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, _ = written(store, [500] * 60)

    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "open", refuse)
    reader = BlockReader(store._files_of)
    assert reader.ask(Wanted.of([(places, np.arange(60))])) is None
    assert reader.ask(Wanted.of([(places, np.arange(60))])) is None
    reader.close()


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    """A file of some pages and a bit, open for direct reads."""
    data = np.random.default_rng(1).bytes(300 * PAGE + 100)
    (tmp_path / "f").write_bytes(data)
    descriptor = os.open(tmp_path / "f", os.O_RDONLY | os.O_DIRECT)
    yield descriptor, data
    os.close(descriptor)


def test_reads_come_whatever_their_number(pages: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "_DEPTHS", (10**9, 64))
    queue, (descriptor, data) = Aio(), pages
    batches = []
    for seed in range(4):
        page = np.random.default_rng(seed).permutation(301)
        target = buffer(301 * PAGE)
        assert target.ctypes.data % PAGE == 0
        n = np.arange(301)
        batches.append(
            (page, target, queue.begin(np.full(301, descriptor), page * PAGE, n * 0 + PAGE, n * PAGE, target))
        )
    dropped = queue.begin(np.array([descriptor]), np.array([0]), np.array([PAGE]), np.array([0]), buffer(PAGE))
    for page, target, number in batches[::-1]:
        came = queue.finish(number)
        assert came.tolist() == [PAGE if p < 300 else 100 for p in page]
        assert all(target[i * PAGE :][: came[i]].tobytes() == data[p * PAGE :][: came[i]] for i, p in enumerate(page))
    queue.drop(dropped)
    queue.drop(dropped)
    queue.close()


def test_a_read_that_fails_says_so_and_the_others_come(pages: tuple[int, bytes]) -> None:
    queue, (descriptor, data) = Aio(), pages
    target = buffer(3 * PAGE)
    files, n = np.array([descriptor, 10**6, descriptor]), np.arange(3)
    came = queue.finish(queue.begin(files, n * PAGE, n * 0 + PAGE, n * PAGE, target))
    assert came[0] == came[2] == PAGE and came[1] == -9  # EBADF
    assert target[2 * PAGE :].tobytes() == data[2 * PAGE : 3 * PAGE]
    queue.close()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40_000), st.integers(40, 9000)), min_size=1, max_size=30))
def test_plan_has_every_entry_in_a_read(entries: list[tuple[int, int, int]]) -> None:
    """Its naive twin is what it must be: each entry lies in its read, reads are whole pages, and do not overlap in the buffer."""
    entries.sort()
    files, starts, sizes = (np.array(column) for column in zip(*entries))
    n = len(entries)
    read_files, offsets, lengths, places, read, at = (np.empty(n, np.int64) for _ in range(6))
    count = kernels.plan(files, starts, starts + sizes, read_files, offsets, lengths, places, read, at)
    assert 1 <= count <= n
    assert not (offsets[:count] % PAGE).any() and not (lengths[:count] % PAGE).any()
    assert places[:count].tolist() == (np.cumsum(lengths[:count]) - lengths[:count]).tolist()
    for i in range(n):
        k = int(read[i])
        assert read_files[k] == files[i]
        assert offsets[k] <= starts[i] and starts[i] + sizes[i] <= offsets[k] + lengths[k]
        assert at[i] == places[k] + starts[i] - offsets[k]


@given(st.lists(st.integers(8, 1 << 30), min_size=1, max_size=20), st.data())
def test_extents_follow_the_layout_of_entries(sizes: list[int], data: st.DataObject) -> None:
    firsts = [0, *sorted(data.draw(st.sets(st.integers(1, len(sizes) - 1), max_size=2)) if len(sizes) > 1 else [])]
    sizes = [s % (1 << 24) + 8 for s in sizes]
    found = Extents.of(np.array(sizes), firsts)
    starts, ends = [], []
    for number, size in enumerate(sizes):
        begin = 0 if number in firsts else ends[-1]
        starts.append(begin)
        ends.append(begin + 2 + len(f"{size:b}") // 7 + bool(len(f"{size:b}") % 7) + 20 + size + 13)
    files, begins, stops = locate(Wanted.of([(Addresses(1, len(sizes), found), np.arange(len(sizes)))]))
    assert begins.tolist() == starts and stops.tolist() == ends
    assert files.tolist() == [sum(n >= f for f in firsts) - 1 for n in range(len(sizes))]


@pytest.mark.parametrize("width", [0, 40, 300])
def test_a_block_of_ordinary_rows_is_one_page_of_its_file(store: ColdStore, width: int) -> None:
    rng, count = np.random.default_rng(width), 20_000
    texts = ["x" * n for n in rng.integers(width // 2, width + width // 2 + 1, count)]
    schema = pa.schema([("k", pa.int64()), ("t", pa.string()), ("d", pa.decimal128(12, 2))])
    rows = pa.record_batch([np.arange(count), texts, pa.nulls(count, schema.field(2).type)], schema=schema)
    builder = Builder(schema, store, count)
    hashes = np.sort(rng.integers(0, 1 << 63, count).astype(np.uint64))
    for begin in range(0, count, 7_000):
        builder.add(
            rows.slice(begin, 7_000), hashes[begin : begin + 7_000], np.arange(begin, min(begin + 7_000, count))
        )
    segment = builder.finish()
    _, starts, ends = locate(Wanted.of([(segment.places, np.arange(segment.fences.shape[0]))]))
    assert not (starts % PAGE).any() and not (ends % PAGE).any()
    assert ((ends - starts) == PAGE).mean() > 0.9
    assert 4 * (count * (48 + width)) > 3 * (ends - starts).sum()  # little of it is empty
