"""Frames: the unit of the log's files, and how a torn tail is told from damage.

    frame   = length u32 | crc32 u32 | payload          crc32 of the payload; length of the payload
    data    = base offset i64 | count u32 | flags u32 | latest timestamp i64 | Arrow record batch (IPC)
    commit  = UTF-8 JSON

A data frame holds up to a few thousand records as columns (timestamp, key, value, headers): one checksum, one write and no
per-record work, as in Kafka's record batches. All numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from forebay.connectors.records import HEADERS
from forebay.engine.errors import StateError
from forebay.engine.files import Files

_FRAME = struct.Struct("<II")
_DATA = struct.Struct("<qIIq")
PREFIX = _FRAME.size + _DATA.size
"""Bytes of a data frame before its record batch."""
_WITH_HEADERS = 1

PLAIN = pa.schema([("timestamp", pa.int64()), ("key", pa.binary()), ("value", pa.binary())])
FULL = PLAIN.append(pa.field("headers", HEADERS))
"""Records as columns; timestamps are milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class DataFrame:
    """Where a data frame lies and what it holds."""

    position: int
    size: int
    base: int
    count: int
    flags: int
    latest: int
    """Greatest timestamp, ms since 1970."""

    @property
    def stop(self) -> int:
        return self.position + self.size


def frame(payload: bytes) -> bytes:
    """The payload with its length and checksum."""
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def data_frame(base: int, rows: pa.RecordBatch) -> bytes:
    """A frame of the records `rows` (PLAIN or FULL) from offset `base`."""
    full = "headers" in rows.schema.names
    latest = max(rows.column("timestamp").to_numpy().max(initial=-1), -1)
    head = _DATA.pack(base, rows.num_rows, _WITH_HEADERS if full else 0, latest)
    body = rows.serialize()
    crc = zlib.crc32(body, zlib.crc32(head))
    return b"".join((_FRAME.pack(len(head) + body.size, crc), head, body))


def read_head(files: Files, path: Path, position: int) -> DataFrame:
    """The head of the data frame at a position of a segment; its checksum is not looked at."""
    data = files.read_at(path, position, PREFIX)
    if len(data) < PREFIX:
        raise StateError(f"segment {path} ends inside a frame at byte {position}")
    length, _ = _FRAME.unpack_from(data)
    base, count, flags, latest = _DATA.unpack_from(data, _FRAME.size)
    return DataFrame(position, _FRAME.size + length, base, count, flags, latest)


def read_rows(files: Files, path: Path, head: DataFrame) -> pa.RecordBatch:
    """The records of a frame.

    Raises:
        StateError: the bytes are not what was written.
    """
    data = files.read_at(path, head.position, head.size)
    if len(data) < head.size or zlib.crc32(memoryview(data)[_FRAME.size :]) != _FRAME.unpack_from(data)[1]:
        raise StateError(
            f"segment {path} is damaged at byte {head.position}",
            detail=f"offsets {head.base} to {head.base + head.count - 1} cannot be read",
            hint="restore the file from a copy, or start behind these offsets",
        )
    schema = FULL if head.flags & _WITH_HEADERS else PLAIN
    return pa.ipc.read_record_batch(pa.py_buffer(data).slice(PREFIX), schema)


def commit_frames(data: bytes, path: Path, base: int) -> Iterator[tuple[bytes, int]]:
    """Payloads of the whole frames in `data`, which starts at byte `base` of a file, each with its end in the file.

    Ends quietly before a torn tail: an incomplete frame, a broken one that is the last, or zeros.

    Raises:
        StateError: a broken frame with others behind it.
    """
    at = 0
    while len(data) - at >= _FRAME.size:
        length, crc = _FRAME.unpack_from(data, at)
        stop = at + _FRAME.size + length
        if stop > len(data) or length == 0:
            return
        payload = data[at + _FRAME.size : stop]
        if zlib.crc32(payload) != crc:
            if stop == len(data) or not any(data[stop:]):
                return
            raise StateError(f"{path} is damaged at byte {base + at}", hint="restore the file from a copy")
        at = stop
        yield payload, base + at
