"""The row store: columns in append-only chunks of 64K rows, addressed by row ids that ascend from 1.

    row r → chunk r >> 16, place r & 65535
    fixed width   chunk of 65536 values, in their Arrow bytes (BOOLEAN one byte each)
    text          chunk of 65537 uint32 offsets + a byte heap that grows, to 4 GiB at most
    other         the Arrow arrays as they came (lists, maps, rows): gathered by Arrow
    validity      one byte per row, in chunks that have a NULL only

The store owns every address that it hands to a kernel. Rows are never moved or changed; whole chunks can be given back.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.consolidate import same_values
from forebay.engine.errors import DataError
from forebay.engine.state import arrays as columns
from forebay.engine.state.arrays import Mask
from forebay.kernels import probe
from forebay.kernels import rows as kernels
from forebay.kernels.rows import MASK, SHIFT

Ids = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]
CHUNK = 1 << SHIFT
_SLACK = 64
_MOST_TEXT = 2**32 - 1
_MOST_GATHERED = 2**31 - 1


class ChunkTable:
    """Fixed-size chunks of `width` bytes per row, and the addresses of their starts."""

    def __init__(self, width: int, fill: int | None = None, extra: int = 0) -> None:
        self.width = width
        self.addresses: Ids = np.zeros(16, np.int64)
        self.chunks: dict[int, npt.NDArray[np.uint8]] = {}
        self._fill = fill
        self._extra = extra

    def require(self, chunk: int) -> npt.NDArray[np.uint8]:
        """The chunk's bytes, made if absent."""
        self.reserve(chunk)
        found = self.chunks.get(chunk)
        if found is None:
            size = CHUNK * self.width + self._extra + _SLACK
            if self._fill is None:
                found = np.empty(size, np.uint8)
            else:  # zeros come as untouched pages
                found = np.full(size, self._fill, np.uint8) if self._fill else np.zeros(size, np.uint8)
            self.put(chunk, found)
        return found

    def put(self, chunk: int, data: npt.NDArray[np.uint8]) -> None:
        """Replace a chunk."""
        self.reserve(chunk)
        self.chunks[chunk] = data
        self.addresses[chunk] = data.ctypes.data

    def drop(self, chunk: int) -> None:
        """Give back a chunk, if it is there."""
        if self.chunks.pop(chunk, None) is not None:
            self.addresses[chunk] = 0

    def only(self, chunk: int) -> Self:
        """A table with the same bytes of one chunk, if it is there: they stay when it is dropped here."""
        other = copy.copy(self)
        other.addresses, other.chunks = np.zeros(chunk + 1, np.int64), {}
        if chunk in self.chunks:
            other.put(chunk, self.chunks[chunk])
        return other

    def reserve(self, chunk: int) -> None:
        """Room for the address of `chunk`; 0 until it is made."""
        if chunk >= self.addresses.shape[0]:
            self.addresses = np.concatenate([self.addresses, np.zeros(max(chunk, self.addresses.shape[0]), np.int64)])

    def nbytes(self) -> int:
        return sum(c.nbytes for c in self.chunks.values()) + self.addresses.nbytes


class SparseColumn(ChunkTable):
    """An int64 per row id, 0 unless set; chunks without a set row take no memory."""

    def __init__(self) -> None:
        super().__init__(8, fill=0)

    def set(self, rows: Ids, values: Ids) -> None:
        """Set the values of the rows."""
        for chunk in np.unique(rows >> SHIFT).tolist():
            self.require(chunk)
        probe.put_sparse(self.addresses, rows, values)

    def add_to(self, rows: Ids, out: Ids) -> None:
        """out[i] += the value of rows[i]."""
        if self.chunks:
            probe.add_sparse(self.addresses, rows, out)


class _Column(ABC):
    """The stored values of one column."""

    @abstractmethod
    def write(self, array: pa.Array, row: int) -> None:
        """Store the values from row id `row` on; they lie within one chunk."""

    @abstractmethod
    def gather(self, rows: Ids) -> pa.Array:
        """The values of the rows, in order."""

    @abstractmethod
    def same(self, rows: Ids, array: pa.Array, places: Places) -> Mask:
        """Whether the value of rows[i] equals array[places[i]]; NULL equals NULL, NaN NaN, -0.0 0.0."""

    @abstractmethod
    def drop(self, chunk: int) -> None:
        """Give back the values of a chunk that nobody will read again."""

    @abstractmethod
    def only(self, chunk: int) -> Self:
        """The values of one chunk that are there now: a column to gather from on another thread, whatever happens to this."""

    @abstractmethod
    def nbytes(self) -> int: ...


class _Validity:
    """NULLs of one column."""

    def __init__(self) -> None:
        self.table = ChunkTable(1, fill=1)

    def write(self, array: pa.Array, row: int) -> None:
        chunk, place = row >> SHIFT, row & MASK
        self.table.reserve(chunk)
        if array.null_count or chunk in self.table.chunks:
            self.table.require(chunk)[place : place + len(array)] = ~columns.is_null(array)

    def gather(self, rows: Ids) -> Mask | None:
        """True where NULL; None when no row is."""
        if not self.table.chunks:
            return None
        valid = np.empty(rows.shape[0], np.uint8)
        if not kernels.gather_valid(self.table.addresses, rows, valid):
            return None
        null: Mask = valid == 0
        return null

    def only(self, chunk: int) -> _Validity:
        """Those of one chunk."""
        other = _Validity()
        other.table = self.table.only(chunk)
        return other

    def apply(self, equal: Mask, rows: Ids, array: pa.Array, places: Places) -> Mask:
        """`equal` of the values, with NULLs minded on both sides."""
        mine = self.gather(rows)
        if mine is None and not array.null_count:
            return equal
        theirs = columns.is_null(array)[places]
        if mine is None:
            return equal & ~theirs
        return np.where(mine | theirs, mine & theirs, equal)


_GATHERS: dict[int, tuple[Any, type, int]] = {
    1: (kernels.gather_1, np.uint8, 1),
    2: (kernels.gather_2, np.int16, 1),
    4: (kernels.gather_4, np.int32, 1),
    8: (kernels.gather_8, np.uint64, 1),
    16: (kernels.gather_16, np.uint64, 2),
}
"""By width in bytes: kernel, dtype and number of the words of a value."""


class _Fixed(_Column):
    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._pair = columns.is_pair(kind)
        width = 16 if self._pair else 1 if pa.types.is_boolean(kind) else kind.bit_width // 8
        self._gather, self._dtype, self._words = _GATHERS[width]
        self._values = ChunkTable(width)
        self._validity = _Validity()

    def write(self, array: pa.Array, row: int) -> None:
        self._validity.write(array, row)
        raw = columns.pairs(array) if self._pair else columns.raw(array)
        width = self._values.width
        start = (row & MASK) * width
        chunk = self._values.require(row >> SHIFT)
        chunk[start : start + len(array) * width] = np.ascontiguousarray(raw).reshape(-1).view(np.uint8)

    def gather(self, rows: Ids) -> pa.Array:
        out = self._bytes(rows)
        null = self._validity.gather(rows)
        return columns.fixed_array(out.reshape(-1, 2) if self._pair else out, null, self._kind)

    def _bytes(self, rows: Ids) -> npt.NDArray[Any]:
        out = np.empty(rows.shape[0] * self._words, self._dtype)
        self._gather(self._values.addresses, rows, out)
        return out

    def same(self, rows: Ids, array: pa.Array, places: Places) -> Mask:
        if array.type != self._kind or pa.types.is_floating(self._kind):
            return same_at(self.gather(rows), array, places)
        mine = self._bytes(rows)
        if self._pair:
            equal = (mine.reshape(-1, 2) == columns.pairs(array)[places]).all(axis=1)
        else:
            equal = mine == columns.raw(array)[places].view(mine.dtype)
        return self._validity.apply(equal, rows, array, places)

    def drop(self, chunk: int) -> None:
        self._values.drop(chunk)
        self._validity.table.drop(chunk)

    def only(self, chunk: int) -> Self:
        other = copy.copy(self)
        other._values, other._validity = self._values.only(chunk), self._validity.only(chunk)
        return other

    def nbytes(self) -> int:
        return self._values.nbytes() + self._validity.table.nbytes()


class _Text(_Column):
    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._offsets = ChunkTable(4, extra=4)
        self._heap = ChunkTable(0)
        self._used: dict[int, int] = {}
        """Bytes of text per chunk; the rest of its heap was never written, and takes no memory."""
        self._validity = _Validity()

    def write(self, array: pa.Array, row: int) -> None:
        self._validity.write(array, row)
        chunk, place = row >> SHIFT, row & MASK
        new = chunk not in self._offsets.chunks
        offsets = self._offsets.require(chunk)[: 4 * (CHUNK + 1)].view(np.uint32)
        if new:
            offsets[place] = 0
        starts, data = columns.text(array)
        begin, end = int(starts[0]), int(starts[-1])
        used, size = int(offsets[place]), end - begin
        if used + size > _MOST_TEXT:
            raise DataError(
                "text column is too large for memory",
                detail=f"65536 consecutive rows hold more than {_MOST_TEXT} bytes of it",
                hint="leave the column out of the joined or materialized relation",
            )
        heap = self._room(chunk, used, used + size + _SLACK, place + len(array))
        heap[used : used + size] = data[begin:end]
        self._used[chunk] = used + size
        offsets[place + 1 : place + 1 + len(array)] = starts[1:].astype(np.int64) + (used - begin)

    def _room(self, chunk: int, used: int, size: int, rows: int) -> npt.NDArray[np.uint8]:
        """The chunk's heap with room for `size` bytes of its first `rows` rows; grows towards what they foretell."""
        heap = self._heap.chunks.get(chunk)
        if heap is None or heap.shape[0] < size:
            have = 0 if heap is None else heap.shape[0]
            foretold = size * CHUNK // rows if rows >= 1024 else 0
            grown = np.empty(max(size, 1024, have * 3 // 2, min(foretold * 17 // 16, 8 * size)), np.uint8)
            if heap is not None:
                grown[:used] = heap[:used]
            self._heap.put(chunk, grown)
            heap = grown
        return heap

    def gather(self, rows: Ids) -> pa.Array:
        starts = np.empty(rows.shape[0] + 1, np.int32)
        total = kernels.text_offsets(self._offsets.addresses, rows, starts)
        if total > _MOST_GATHERED:
            raise DataError(
                "a batch of joined rows holds more than 2 GiB of one text column",
                hint="leave the column out of the query, or cut it before the join",
            )
        out = np.empty(total + _SLACK, np.uint8)
        kernels.text_copy(self._offsets.addresses, self._heap.addresses, rows, starts, out.ctypes.data)
        return columns.text_array(starts, out, self._validity.gather(rows), self._kind)

    def same(self, rows: Ids, array: pa.Array, places: Places) -> Mask:
        if array.type != self._kind:
            return same_at(self.gather(rows), array, places)
        equal = np.empty(rows.shape[0], np.uint8)
        starts, data = columns.text(array)
        probe.equal_text(self._offsets.addresses, self._heap.addresses, rows, starts, data, places, equal)
        return self._validity.apply(equal.view(bool), rows, array, places)

    def drop(self, chunk: int) -> None:
        self._offsets.drop(chunk)
        self._heap.drop(chunk)
        self._used.pop(chunk, None)
        self._validity.table.drop(chunk)

    def only(self, chunk: int) -> Self:
        other = copy.copy(self)
        other._offsets, other._heap = self._offsets.only(chunk), self._heap.only(chunk)
        other._validity = self._validity.only(chunk)
        return other

    def nbytes(self) -> int:
        return self._offsets.nbytes() + sum(self._used.values()) + self._validity.table.nbytes()


def same_at(mine: pa.Array, array: pa.Array, places: Places) -> Mask:
    """mine[i] against array[places[i]]: for types that differ in width, floats and nested ones."""
    theirs = array.take(pa.array(places))
    if mine.type != theirs.type and pa.types.is_floating(mine.type):
        mine, theirs = mine.cast(pa.float64()), theirs.cast(pa.float64())
    return same_values(mine, theirs)


class _Other(_Column):
    """Nested values: pieces of Arrow arrays by ascending row id, neighbours of a chunk merged as they grow alike."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._starts: list[int] = []
        self._arrays: list[pa.Array] = []

    def write(self, array: pa.Array, row: int) -> None:
        self._starts.append(row)
        self._arrays.append(array)
        while self._may_merge():
            last = self._arrays.pop()
            self._starts.pop()
            self._arrays[-1] = pa.concat_arrays([self._arrays[-1], last])

    def _may_merge(self) -> bool:
        """Is the last piece but one of the same chunk, next to the last and at most twice as long? So values move few times."""
        if len(self._starts) < 2 or self._starts[-2] >> SHIFT != self._starts[-1] >> SHIFT:
            return False
        size = len(self._arrays[-2])
        return self._starts[-2] + size == self._starts[-1] and size <= 2 * len(self._arrays[-1])

    def gather(self, rows: Ids) -> pa.Array:
        if not rows.shape[0]:
            return pa.array([], self._kind)
        starts = np.array(self._starts)
        piece = np.searchsorted(starts, rows, "right") - 1
        order = np.argsort(piece, kind="stable")
        used, first = np.unique(piece[order], return_index=True)
        parts = [
            self._arrays[number].take(pa.array(rows[places] - starts[number]))
            for number, places in zip(used.tolist(), np.split(order, first[1:]))
        ]
        if len(parts) == 1:
            return parts[0]
        inverse = np.empty(rows.shape[0], np.int64)
        inverse[order] = np.arange(rows.shape[0])
        return pa.concat_arrays(parts).take(pa.array(inverse))

    def same(self, rows: Ids, array: pa.Array, places: Places) -> Mask:
        return same_at(self.gather(rows), array, places)

    def drop(self, chunk: int) -> None:
        kept = [n for n, start in enumerate(self._starts) if start >> SHIFT != chunk]
        self._starts, self._arrays = [self._starts[n] for n in kept], [self._arrays[n] for n in kept]

    def only(self, chunk: int) -> Self:
        other = copy.copy(self)
        kept = [n for n, start in enumerate(self._starts) if start >> SHIFT == chunk]
        other._starts, other._arrays = [self._starts[n] for n in kept], [self._arrays[n] for n in kept]
        return other

    def nbytes(self) -> int:
        return sum(a.nbytes for a in self._arrays)


def _column(kind: pa.DataType) -> _Column:
    if columns.is_text(kind):
        return _Text(kind)
    return _Fixed(kind) if columns.is_fixed(kind) or columns.is_pair(kind) else _Other(kind)


class RowStore:
    """Rows of one schema by id."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.next_id = 1
        self._columns = [_column(f.type) for f in schema]

    def append(self, rows: pa.RecordBatch) -> int:
        """Store rows; returns the id of the first, the others follow."""
        first = self.next_id
        done = 0
        while done < rows.num_rows:
            row = first + done
            part = rows.slice(done, min(rows.num_rows - done, CHUNK - (row & MASK)))
            for column, array in zip(self._columns, part.columns):
                column.write(array, row)
            done += part.num_rows
        self.next_id = first + rows.num_rows
        return first

    def gather(self, ids: Ids, wanted: list[int] | None = None) -> pa.RecordBatch:
        """The rows with these ids (some columns of them)."""
        picked = range(len(self._columns)) if wanted is None else wanted
        schema = self.schema if wanted is None else pa.schema([self.schema.field(i) for i in wanted])
        arrays = [self._columns[i].gather(ids) for i in picked]
        if not arrays:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(ids), pa.struct([])))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def same(
        self, ids: Ids, wanted: Sequence[int], rows: pa.RecordBatch, columns: Sequence[int], places: Places
    ) -> Mask:
        """Whether the `wanted` columns of stored row ids[i] equal `columns` of rows[places[i]]; NULL equals NULL."""
        equal = np.ones(ids.shape[0], bool)
        for mine, theirs in zip(wanted, columns):
            equal &= self._columns[mine].same(ids, rows.column(theirs), places)
        return equal

    def drop(self, chunk: int) -> None:
        """Give back the memory of a chunk whose rows nobody will read again."""
        for column in self._columns:
            column.drop(chunk)

    def only(self, chunk: int) -> RowStore:
        """The rows of one chunk that are there now: a store to gather from on another thread, whatever happens to this."""
        other = copy.copy(self)
        other._columns = [c.only(chunk) for c in self._columns]
        return other

    def skip_to(self, chunk: int) -> None:
        """Go on at the first id of a later chunk; the ids in between are never stored."""
        self.next_id = max(self.next_id, chunk << SHIFT)

    def nbytes(self) -> int:
        return sum(c.nbytes() for c in self._columns)
