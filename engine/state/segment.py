"""One segment of cold rows: encoding rows into blocks, finding hashes in it, and what its footer holds.

Rows lie in the order of their hashes, `block_rows` to a block, each with its row id as the first column. A block of ordinary rows
takes one page of its file, a few take two: a disk gives pages, and twice as many of them as it gives pairs. Values keep the bytes
they have in the hot tier; nested ones are pickled. The footer is JSON (counts, and of rows with a time the oldest, the middle and
the newest, of keys that have an order the least and the greatest), then the fences, then the filter.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.errors import StateError
from forebay.engine.state import arrays
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.extents import Addresses, Extents
from forebay.engine.state.rows import Ids
from forebay.engine.state.times import NEVER, time_of
from forebay.kernels import cold as kernels
from forebay.kernels import extents as sums
from forebay.kernels.cold import ENTRY, HEAD, LANES, SLACK
from forebay.kernels.extents import AFTER, BEFORE, CHECK, PAGE, WORDS
from forebay.kernels.rows import SHIFT

Hashes = npt.NDArray[np.uint64]
MOST_ROWS = 1024
_FEWEST_ROWS = 4
"""Blocks of fewer rows do not take whole pages: too much of those would be empty."""
_LIKE_THESE = 4096
"""Rows of a segment that tell how large all are."""
_DEVIATIONS = 2
"""Of the bytes of a page's rows from their mean, for which there is room."""
FILTER_BITS = 24
FORMAT = 2
"""1 had no checksums in its blocks and does not tell where they lie; it is read as before."""
MIN, MAX = -(1 << 63), (1 << 63) - 1
_SAMPLED = 16
"""Of so many rows one tells where the middle of the times is."""


def width_of(kind: pa.DataType) -> int:
    """Bytes of a value in a block; 0 for text and for what is kept as text."""
    if arrays.is_pair(kind):
        return 16
    if not arrays.is_fixed(kind):
        return 0
    return 1 if pa.types.is_boolean(kind) else int(kind.bit_width // 8)


def _as_text(array: pa.Array) -> pa.Array:
    if arrays.is_text(array.type):
        return array
    values = [None if v is None else pickle.dumps(v, protocol=5) for v in array.to_pylist()]
    return pa.array(values, pa.binary())


class Segment:
    """A finished segment: its fences and filter, and where its blocks are in memory."""

    def __init__(self, number: int, footer: bytes) -> None:
        """Raises:
        StateError: the footer is not one of ours.
        """
        size = int.from_bytes(footer[:4], "little")
        try:
            head = json.loads(footer[4 : 4 + size])
            if head["format"] not in (1, FORMAT):
                raise StateError(f"cold state has format {head['format']}, this version reads {FORMAT}")
            self.number = number
            self.rows: int = head["rows"]
            self.block_rows: int = head["block_rows"]
            self.nbytes_on_disk: int = head["bytes"]
            self.times: tuple[int, int, int] | None = None if head.get("times") is None else tuple(head["times"])
            """Event times of its rows, in µs: the oldest, about the middle one, the newest; None: rows have no time."""
            self.range: tuple[int, int] | None = None if head.get("range") is None else tuple(head["range"])
            """The least and the greatest key; None: that is not known."""
            self.fences = np.frombuffer(footer, np.uint64, head["blocks"], 4 + size).copy()
            self.filter = np.frombuffer(footer, np.uint32, head["words"], 4 + size + self.fences.nbytes).copy()
            extents = None
            if head["format"] > 1:
                at = 4 + size + self.fences.nbytes + self.filter.nbytes
                starts = np.frombuffer(footer, np.uint32, head["blocks"], at).copy()
                extents = Extents(starts, head["firsts"], head["ends"])
        except (ValueError, KeyError) as error:
            raise StateError("cold state is damaged", detail=f"footer of segment {number}: {error}") from error
        self.table = (
            self.filter.ctypes.data,
            self.filter.shape[0] // LANES,
            self.fences.ctypes.data,
            self.fences.shape[0],
            *(self.range or (MIN, MAX)),
        )
        """As `kernels.candidates` wants it."""
        self.dead = 0
        """Its rows that have died; its owner counts them."""
        self.damaged = False
        """Some of its blocks cannot be read."""
        self.places = Addresses(number, self.fences.shape[0], extents)
        self.block_bytes = PAGE + self.nbytes_on_disk // max(self.fences.shape[0], 1)
        """Of memory that a block needs, about: whole pages are read."""
        self.chunks: Ids | None = None
        """The chunks of 64K ids that its rows have; not known of a segment that was opened again."""
        self.asked = 0
        """Hashes that were looked for; `passed` of them the filter let through."""
        self.passed = 0

    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.fences.nbytes + self.filter.nbytes + self.places.nbytes()

    def blocks_between(self, low: int, high: int | None) -> Ids:
        """The blocks that may hold hashes from `low` to below `high` (None: to the end)."""
        first = max(int(np.searchsorted(self.fences, np.uint64(low), "left")) - 1, 0)
        end = self.fences.shape[0] if high is None else int(np.searchsorted(self.fences, np.uint64(high), "left"))
        return np.arange(first, max(end, first))

    def rows_of(self, blocks: Ids) -> Ids:
        """The rows of some blocks, in order."""
        rows = (blocks[:, None] * self.block_rows + np.arange(self.block_rows)).reshape(-1)
        return rows[rows < self.rows]


class Builder:
    """Encodes hash-sorted rows, given in any number of pieces, into the blocks of a new segment."""

    def __init__(
        self, schema: pa.Schema, store: ColdStore, expected: int, time: int | None = None, key: int | None = None
    ) -> None:
        """`expected`: rows at most, for the size of the filter. `time`: the column with the event time; `key`: with the key."""
        self.number = store.new_segment()
        self._widths = [8, *(width_of(f.type) for f in schema)]
        self._writer = store.writer(self.number)
        self._filter = np.zeros(max(1, -(-expected * FILTER_BITS // (32 * LANES))) * LANES, np.uint32)
        self._fences: list[Hashes] = []
        self._rows = 0
        self._bytes = 0
        self._block_rows = 0
        self._rest: tuple[pa.RecordBatch, Hashes, Ids] | None = None
        self._time = time
        self._sample: list[Ids] = []
        self._oldest, self._newest = NEVER, -NEVER
        self._key = key
        self._least, self._greatest = MAX, MIN
        self._chunks: Ids = np.zeros(0, np.int64)

    def add(self, rows: pa.RecordBatch, hashes: Hashes, ids: Ids) -> None:
        """Append rows whose hashes ascend, and are not below those of earlier pieces."""
        if not self._block_rows and rows.num_rows:
            self._block_rows = self._rows_of_a_page(rows)
        if self._rest is not None and self._rest[0].num_rows:
            missing = self._block_rows - self._rest[0].num_rows
            rest = pa.concat_batches([self._rest[0], rows.slice(0, missing)])
            self._rest = (
                rest,
                np.concatenate([self._rest[1], hashes[:missing]]),
                np.concatenate([self._rest[2], ids[:missing]]),
            )
            if rest.num_rows < self._block_rows:
                return
            self._write(*self._rest)
            rows, hashes, ids = rows.slice(missing), hashes[missing:], ids[missing:]
        whole = rows.num_rows // self._block_rows * self._block_rows if self._block_rows else 0
        self._write(rows.slice(0, whole), hashes[:whole], ids[:whole])
        self._rest = (rows.slice(whole), hashes[whole:], ids[whole:])

    def finish(self) -> Segment:
        """Write what is left, make the segment durable, and open it."""
        if self._rest is not None:
            self._write(*self._rest)
            self._rest = None
        fences = np.concatenate([np.zeros(0, np.uint64), *self._fences])
        extents = self._writer.extents()
        head = json.dumps(
            {
                "format": FORMAT,
                "rows": self._rows,
                "block_rows": max(self._block_rows, 1),
                "bytes": self._bytes,
                "blocks": fences.shape[0],
                "words": self._filter.shape[0],
                "times": self._times(),
                "range": None if self._key is None else (self._least, self._greatest),
                "firsts": extents.firsts,
                "ends": extents.ends,
            }
        ).encode()
        head += b" " * (-(len(head) + 4) % 8)
        footer = len(head).to_bytes(4, "little") + head + fences.tobytes() + self._filter.tobytes()
        footer += extents.starts.tobytes()
        self._writer.finish(footer)
        segment = Segment(self.number, footer)
        segment.chunks = self._chunks
        return segment

    def abandon(self) -> None:
        """Forget the segment."""
        self._writer.abandon()

    def _times(self) -> tuple[int, int, int] | None:
        if self._time is None or not self._rows:
            return None
        return self._oldest, int(np.median(np.concatenate(self._sample))), self._newest

    def _note_times(self, column: pa.Array) -> None:
        times = time_of(column)
        self._oldest, self._newest = min(self._oldest, int(times.min())), max(self._newest, int(times.max()))
        self._sample.append(times[::_SAMPLED])

    def _note_keys(self, column: pa.Array) -> None:
        keys = arrays.ordinals(column.drop_null())
        if keys is None:
            self._key = None
        elif keys.size:
            self._least, self._greatest = min(self._least, int(keys.min())), max(self._greatest, int(keys.max()))

    def _write(self, rows: pa.RecordBatch, hashes: Hashes, ids: Ids) -> None:
        if not rows.num_rows:
            return
        hashes = np.ascontiguousarray(hashes)
        kernels.filter_add(hashes, self._filter)
        if self._time is not None:
            self._note_times(rows.column(self._time))
        if self._key is not None:
            self._note_keys(rows.column(self._key))
        first = np.arange(0, rows.num_rows, self._block_rows)
        counts = np.minimum(self._block_rows, rows.num_rows - first)
        data, ends = self._encode(rows, hashes, ids, first, counts)
        self._writer.put(data, ends)
        self._fences.append(hashes[first])
        self._chunks = np.union1d(self._chunks, np.flatnonzero(np.bincount(ids >> SHIFT)))
        self._rows += rows.num_rows
        self._bytes += int(ends[-1])

    def _rows_of_a_page(self, rows: pa.RecordBatch) -> int:
        """How many rows like these a block has that is to be read as one page of its file."""
        rows = rows.slice(0, _LIKE_THESE)
        texts = [_as_text(c) for c, width in zip(rows.columns, self._widths[1:]) if not width]
        lengths = sum((np.diff(arrays.text(t)[0].astype(np.int64)) for t in texts), np.zeros(rows.num_rows, np.int64))
        each = 8 + sum(w or 4 for w in self._widths) + sum(bool(c.null_count) for c in rows.columns) + lengths.mean()
        room = PAGE - BEFORE - AFTER - CHECK - WORDS - HEAD - (ENTRY + 4) * len(self._widths)
        spread = _DEVIATIONS * float(lengths.std())
        root = (math.sqrt(spread**2 + 4 * each * max(room, 0)) - spread) / (2 * each)  # each n + spread √n = room
        return min(max(int(root**2), 1), MOST_ROWS)

    def _encode(
        self, rows: pa.RecordBatch, hashes: Hashes, ids: Ids, first: Ids, counts: Ids
    ) -> tuple[npt.NDArray[np.uint8], Ids]:
        """The blocks side by side, and where each ends."""
        columns = [pa.array(ids), *rows.columns]
        texts = [_as_text(c) if not w else None for c, w in zip(columns, self._widths)]
        fixed = HEAD + ENTRY * len(columns)
        head = np.zeros((first.shape[0], fixed // 4), np.uint32)
        head[:, 0], head[:, 1] = counts, len(columns)
        at = fixed + 8 * counts
        for number, (column, text, width) in enumerate(zip(columns, texts, self._widths)):
            head[:, 2 + 2 * number] = at
            at = at + (counts * width if text is None else 4 * (counts + 1) + _lengths(text, first, counts))
            if column.null_count:
                head[:, 3 + 2 * number] = at
                at = at + counts
        used, at = at, -(-at // WORDS) * WORDS + CHECK
        if self._block_rows >= _FEWEST_ROWS:
            at = _whole_pages(at)
        ends = np.cumsum(at)
        data = np.empty(int(ends[-1]) + SLACK, np.uint8)
        begin = data.ctypes.data + ends - at
        kernels.put_fixed(head.ctypes.data, np.arange(first.shape[0]), np.ones_like(first), begin, fixed)
        kernels.put_fixed(hashes.ctypes.data, first, counts, begin + fixed, 8)
        for number, (column, text, width) in enumerate(zip(columns, texts, self._widths)):
            target = begin + head[:, 2 + 2 * number]
            if text is None:
                values = arrays.pairs(column) if width == 16 else arrays.raw(column)
                values = np.ascontiguousarray(values)
                kernels.put_fixed(values.ctypes.data, first, counts, target, width)
            else:
                starts, heap = arrays.text(text)
                kernels.put_text(starts, heap.ctypes.data, first, counts, target)
            if column.null_count:
                valid = np.ascontiguousarray(~arrays.is_null(column))
                kernels.put_fixed(valid.ctypes.data, first, counts, begin + head[:, 3 + 2 * number], 1)
        sums.put_sums(begin, used, at)
        return data, ends


def _whole_pages(sizes: Ids) -> Ids:
    """Sizes of values, at least these, whose entries in a table file take whole pages: each then is read as one."""
    pages = -(-(sizes + BEFORE + AFTER + 3) // PAGE) * PAGE - BEFORE - AFTER
    return pages - np.where(pages - 2 < 1 << 14, 2, 3)


def _lengths(text: pa.Array, first: Ids, counts: Ids) -> Ids:
    """Bytes of the texts of each block."""
    starts = arrays.text(text)[0]
    lengths: Ids = starts[first + counts].astype(np.int64) - starts[first]
    return lengths


def gather_column(blocks: Ids, rows: Ids, number: int, kind: pa.DataType) -> pa.Array:
    """Column `number` (0: row ids) of rows[i] in the block at address blocks[i], as an Arrow array."""
    n = rows.shape[0]
    valid = np.empty(n, np.uint8)
    null = valid == 0 if kernels.gather_valid(blocks, rows, number, valid) else None
    width = width_of(kind)
    if width:
        out = np.empty(n * width + SLACK, np.uint8)
        kernels.gather_fixed(blocks, rows, number, width, out.ctypes.data)
        return _fixed_array(out[: n * width], null, kind, width)
    starts = np.empty(n + 1, np.int64)
    total = kernels.text_offsets(blocks, rows, number, starts)
    if total > np.iinfo(np.int32).max:
        raise StateError(
            "a batch of cold rows holds more than 2 GiB of one column", hint="leave the column out of the query"
        )
    heap = np.empty(total + SLACK, np.uint8)
    kernels.text_copy(blocks, rows, number, starts, heap.ctypes.data)
    is_text = arrays.is_text(kind)
    array = arrays.text_array(starts.astype(np.int32), heap, null, kind if is_text else pa.binary())
    if is_text:
        return array
    return pa.array([None if v is None else pickle.loads(v) for v in array.to_pylist()], kind)


def _fixed_array(data: npt.NDArray[np.uint8], null: arrays.Mask | None, kind: pa.DataType, width: int) -> pa.Array:
    if width == 16:
        return arrays.fixed_array(data.view(np.uint64).reshape(-1, 2), null, kind)
    return arrays.fixed_array(data.view(f"i{width}"), null, kind)


def rows_batch(blocks: Ids, rows: Ids, schema: pa.Schema, wanted: Sequence[int]) -> pa.RecordBatch:
    """Some columns of rows in blocks that are in memory."""
    picked = pa.schema([schema.field(i) for i in wanted])
    if not wanted:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * rows.shape[0], pa.struct([])))
    columns = [gather_column(blocks, rows, 1 + i, schema.field(i).type) for i in wanted]
    return pa.RecordBatch.from_arrays(columns, schema=picked)
