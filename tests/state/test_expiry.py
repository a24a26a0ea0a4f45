"""Physical expiry: what every reader has passed leaves memory and disk, whole chunks and segments at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.state.arrangement import ALWAYS, Arrangement
from forebay.engine.state.coldstore import ColdStore
from forebay.kernels.rows import SHIFT

SCHEMA = pa.schema([("k", pa.string()), ("t", pa.timestamp("us"))])
CHUNK = 1 << SHIFT


def made(store: ColdStore | None = None) -> Arrangement:
    arrangement = Arrangement(SCHEMA, (0,), time=1)
    if store is not None:
        arrangement.use(store)
    return arrangement


def fill(arrangement: Arrangement, first: int, count: int, epoch: int) -> None:
    """Rows first, first + 1, ...: each with its number as key and as time."""
    numbers = np.arange(first, first + count)
    rows = pa.RecordBatch.from_arrays(
        [pa.array([f"{n}" for n in numbers.tolist()]), pa.array(numbers).cast(pa.timestamp("us"))], schema=SCHEMA
    )
    arrangement.update([Batch(rows)], epoch)
    arrangement.commit()


def settle(arrangement: Arrangement) -> None:
    while arrangement.maintain():
        pass


def test_hot_chunks_go(store: ColdStore) -> None:
    arrangement = made()
    reader = arrangement.reader()
    fill(arrangement, 0, 3 * CHUNK, 1)
    full = arrangement.hot_bytes()
    settle(arrangement)
    assert arrangement.rows() == 3 * CHUNK
    reader.since = CHUNK // 4
    settle(arrangement)
    assert arrangement.rows() == 3 * CHUNK - CHUNK // 4
    reader.since = 2 * CHUNK - 1  # ids begin at 1: the first two chunks have a row less
    settle(arrangement)
    assert arrangement.rows() == CHUNK + 1
    assert arrangement.hot_bytes() < 0.5 * full
    left = pa.RecordBatch.from_arrays([pa.array([f"{2 * CHUNK}", "0"])], names=["k"])
    assert arrangement.lookup(left).num_rows == 1


def test_the_slowest_reader_counts(store: ColdStore) -> None:
    arrangement = made()
    fast, slow = arrangement.reader(), arrangement.reader()
    fill(arrangement, 0, 2 * CHUNK, 1)
    fast.since = 2 * CHUNK
    settle(arrangement)
    assert (arrangement.rows(), arrangement.dropped) == (2 * CHUNK, ALWAYS)
    arrangement.leave(slow)
    settle(arrangement)
    assert arrangement.rows() <= 1


def test_segments_go_whole_or_are_written_anew(store: ColdStore) -> None:
    arrangement = made(store)
    reader = arrangement.reader()
    for number in range(2):
        fill(arrangement, number * CHUNK, CHUNK, number + 1)
    assert arrangement.seal(1.0)
    settle(arrangement)
    (segment,) = arrangement.cold_segments()
    oldest, middle, newest = segment.times or (0, 0, 0)
    assert (oldest, newest) == (0, segment.rows - 1)
    assert abs(middle - segment.rows // 2) < segment.rows // 50
    reader.since = segment.rows * 3 // 4
    settle(arrangement)
    (again,) = arrangement.cold_segments()
    assert again.rows == segment.rows - segment.rows * 3 // 4
    assert again.nbytes_on_disk < segment.nbytes_on_disk / 3
    reader.since = segment.rows
    written = store.written
    settle(arrangement)
    assert (arrangement.cold_segments(), store.written) == ([], written)
    store.collect(())
    assert store.segments() == []
    assert arrangement.rows() == 2 * CHUNK - segment.rows


def test_a_checkpoint_knows_what_is_gone(store: ColdStore) -> None:
    arrangement = made(store)
    reader = arrangement.reader()
    fill(arrangement, 0, 2 * CHUNK + 10, 1)
    arrangement.seal(0.5)
    settle(arrangement)
    chain = arrangement.changes(full=True)
    reader.since = CHUNK + 100
    settle(arrangement)
    chain += arrangement.changes(full=False)
    rows = arrangement.rows()
    again = made(store)
    again.load(chain)
    assert (again.rows(), again.dropped) == (rows, CHUNK + 100)
    assert sum(ids.size for ids in again.visible()) == rows
