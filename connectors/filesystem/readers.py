"""Reading one file from a position: lines by byte offset, Parquet by row number.

A file reader gives batches of the file's columns with, per row, the position of its record, and says where the next one
is. What cannot be read becomes a dead letter with the record's position; the records around it live on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from forebay.engine.batch import Batch
from forebay.engine.connector import DeadLetter, Decoder, Fetched, Records
from forebay.engine.errors import ConnectorError

BLOCK = 1 << 20
"""Bytes of a file that are looked at in one go; a longer line takes as many blocks as it needs."""
NEWLINE, RETURN = 10, 13
CODECS = {"gz": "gzip", "gzip": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4", "br": "brotli"}
"""Compression by file extension."""


@dataclass(frozen=True, slots=True)
class FileChunk:
    """Some records of a file."""

    fetched: Fetched
    """Rows of the file's columns."""
    position: int
    """Of the next record."""


class FileReader(ABC):
    """An open file. `read` gives about `max_rows` records before position `stop`; None at the end of the file."""

    @abstractmethod
    def read(self, max_rows: int, stop: int | None) -> FileChunk | None: ...

    def close(self) -> None:  # noqa: B027 - optional by design
        """Release the file."""


class LineReader(FileReader):
    """Lines through a format's decoder. Positions are byte offsets in the uncompressed file; blank lines are skipped."""

    def __init__(self, system: Any, path: str, name: str, decoder: Decoder, position: int) -> None:
        self._name = name
        self._decoder = decoder
        self._stream = _open_stream(system, path, position)
        self._pending = b""
        self._position = position
        self._ended = False

    def read(self, max_rows: int, stop: int | None) -> FileChunk | None:
        while True:
            if stop is not None and self._position >= stop:
                return None
            lines = self._lines(max_rows, stop)
            if lines is None:
                return None
            values, starts = lines
            if len(values):
                break
        n = len(values)
        decoded = self._decoder.decode(Records(values, self._name, np.zeros(n, np.int32), starts))
        fetched = Fetched(
            decoded.batch,
            None,
            decoded.dead,
            decoded.schema_changes,
            decoded.unknown_fields,
            nbytes=values.nbytes,
            records=n,
        )
        return FileChunk(fetched, self._position)

    def _lines(self, max_rows: int, stop: int | None) -> tuple[pa.BinaryArray, npt.NDArray[np.int64]] | None:
        """The next lines without their ends, and where each starts; None at the end of the file."""
        ends = self._line_ends(max_rows)
        if ends is None:
            return None
        starts = np.concatenate([[0], ends[:-1] + 1])
        if stop is not None:
            keep = starts + self._position < stop
            starts, ends = starts[keep], ends[keep]
        size = min(int(ends[-1]) + 1, len(self._pending))
        data = np.frombuffer(self._pending, np.uint8, size)
        values, kept = _cut(data, starts, ends)
        at = starts[kept] + self._position
        self._pending = self._pending[size:]
        self._position += size
        return values, at

    def _line_ends(self, max_rows: int) -> npt.NDArray[np.int64] | None:
        """Where the next lines end in `_pending`, which grows until there is a whole one."""
        while True:
            ends = np.flatnonzero(np.frombuffer(self._pending, np.uint8) == NEWLINE)
            if len(ends):
                return ends[:max_rows]
            if self._ended:
                return np.array([len(self._pending)]) if self._pending else None
            block = self._stream.read(max(BLOCK, len(self._pending)))
            self._ended = not block
            self._pending += block

    def close(self) -> None:
        self._stream.close()


def _cut(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> tuple[pa.BinaryArray, npt.NDArray[np.bool_]]:
    """The lines data[starts:ends] without their ends and without blank ones, and which are kept."""
    lengths = ends - starts
    carriage = (lengths > 0) & (data[np.maximum(ends - 1, 0)] == RETURN)
    content = data != NEWLINE
    content[ends[carriage] - 1] = False
    lengths -= carriage
    kept = lengths > 0
    offsets = np.zeros(int(kept.sum()) + 1, np.int32)
    np.cumsum(lengths[kept], out=offsets[1:])
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data[content])]
    ), kept


def _open_stream(system: Any, path: str, position: int) -> Any:
    """The uncompressed file from a byte position; a compressed one must be read up to it."""
    codec = CODECS.get(path.rpartition(".")[2].lower())
    if codec is None:
        file = system.open_input_file(path)
        file.seek(position)
        return file
    stream = system.open_input_stream(path, compression=codec)
    left = position
    while left > 0 and (skipped := len(stream.read(min(left, BLOCK)))):
        left -= skipped
    return stream


class ParquetReader(FileReader):
    """Rows of a Parquet file, columns found by name: missing ones are NULL, others are cast to the table's types."""

    def __init__(
        self, system: Any, path: str, name: str, schema: pa.Schema, wanted: Callable[[str], bool], position: int
    ) -> None:
        self._name = name
        self._schema = schema
        buffer = BLOCK if isinstance(system, LocalFileSystem) else 0  # far away, one read of a column is faster
        self._file = pq.ParquetFile(system.open_input_file(path), buffer_size=buffer)
        present = self._file.schema_arrow.names
        self._columns = [f.name for f in schema if f.name in present and wanted(f.name)]
        self._position = position
        self._batches = self._open_at(position)

    def _open_at(self, position: int) -> Any:
        """Batches from row `position` on."""
        groups = self._file.metadata.num_row_groups
        ends = np.cumsum([self._file.metadata.row_group(g).num_rows for g in range(groups)], dtype=np.int64)
        first = int(np.searchsorted(ends, position, side="right"))
        self._skip = position - (int(ends[first - 1]) if first else 0)
        self._rest: pa.RecordBatch | None = None
        return self._file.iter_batches(65536, row_groups=list(range(first, groups)), columns=self._columns)

    def read(self, max_rows: int, stop: int | None) -> FileChunk | None:
        count = max_rows if stop is None else min(max_rows, stop - self._position)
        rows = self._next(count) if count > 0 else None
        if rows is None:
            return None
        batch, dead = conform(rows, self._schema, self._name, self._position)
        self._position += rows.num_rows
        return FileChunk(Fetched(Batch(batch), None, dead, nbytes=rows.nbytes, records=rows.num_rows), self._position)

    def _next(self, count: int) -> pa.RecordBatch | None:
        while self._rest is None or self._rest.num_rows == 0:
            self._rest = next(self._batches, None)
            if self._rest is None:
                return None
            skipped = min(self._skip, self._rest.num_rows)
            self._skip -= skipped
            self._rest = self._rest.slice(skipped)
        rows = self._rest.slice(0, count)
        self._rest = self._rest.slice(count)
        return rows

    def close(self) -> None:
        self._file.close(force=True)


def conform(
    rows: pa.RecordBatch, schema: pa.Schema, name: str, first: int
) -> tuple[pa.RecordBatch, tuple[DeadLetter, ...]]:
    """The rows in a table's columns; a row with a value that does not fit its column is a dead letter.

    Raises:
        ConnectorError: a column's type can never become the table's.
    """
    columns, reasons = [], dict[int, str]()
    for field in schema:
        if field.name not in rows.schema.names:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        given = rows.column(field.name)
        if given.type == field.type:
            columns.append(given)
            continue
        try:
            columns.append(given.cast(field.type))
        except pa.ArrowNotImplementedError:
            raise ConnectorError(
                f"column '{field.name}' of {name} is {given.type}, not {field.type}",
                retryable=False,
                hint=f"declare the column with a type that {given.type} can become",
            ) from None
        except pa.ArrowInvalid:
            columns.append(_cast_each(given, field, reasons))
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    if not reasons:
        return batch, ()
    keep = np.ones(rows.num_rows, bool)
    keep[list(reasons)] = False
    dead = tuple(DeadLetter(name, 0, first + i, reason, _shown(rows, i)) for i, reason in sorted(reasons.items()))
    return batch.filter(pa.array(keep)), dead


def _cast_each(column: pa.Array, field: pa.Field, reasons: dict[int, str]) -> pa.Array:
    """The column cast value by value: NULL where it does not fit, with the reason."""
    values: list[Any] = []
    for i, value in enumerate(column):
        try:
            values.append(value.cast(field.type).as_py())
        except pa.ArrowInvalid as error:
            reasons.setdefault(i, f"column '{field.name}': {error}")
            values.append(None)
    return pa.array(values, field.type)


def _shown(rows: pa.RecordBatch, i: int) -> bytes:
    return str(rows.slice(i, 1).to_pylist()[0]).encode()


def constant(values: Sequence[pa.Scalar], count: int) -> list[pa.Array]:
    """Columns that repeat one value each."""
    return [pa.nulls(count, v.type) if not v.is_valid else pa.repeat(v, count) for v in values]
