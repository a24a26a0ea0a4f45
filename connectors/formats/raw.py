"""Format 'raw': the record's bytes are the value of the table's one column.

STRING in 'charset'; BYTES as they are; BOOLEAN in one byte; numbers in their binary form and 'endianness'. NULL is a record
without a value, both ways.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.connectors import options as read
from forebay.connectors.formats.batches import dead_letter, split_schema
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Decoded, Decoder, Encoder, Option, Records
from forebay.engine.errors import OptionError
from forebay.engine.types import from_arrow

CHARSET = Option("charset", "encoding of text", "UTF-8")
ENDIANNESS = Option("endianness", "byte order of numbers", "big-endian", choices=("big-endian", "little-endian"))
OPTIONS = (CHARSET, ENDIANNESS)

_CODES = {
    pa.bool_(): "?",
    pa.int8(): "i1",
    pa.int16(): "i2",
    pa.int32(): "i4",
    pa.int64(): "i8",
    pa.float32(): "f4",
    pa.float64(): "f8",
}


class _Layout:
    """What both directions need to know of the one column."""

    def __init__(self, schema: pa.Schema, options: Mapping[str, str]) -> None:
        physical, _ = split_schema(schema, {})
        if len(physical) != 1:
            raise OptionError(
                f"format 'raw' carries one column, but the table has {len(physical)}",
                hint="declare one physical column; the others as METADATA",
            )
        self.type = physical.field(0).type
        self.nullable = physical.field(0).nullable
        self.charset = read.required(options, CHARSET)
        try:
            self.utf8 = codecs.lookup(self.charset).name == "utf-8"
        except LookupError:
            raise read.bad_value(CHARSET, self.charset, "the name of an encoding, such as UTF-8") from None
        order = ">" if read.required(options, ENDIANNESS) == "big-endian" else "<"
        self.dtype = np.dtype(order + _CODES[self.type]) if self.type in _CODES else None
        if self.dtype is None and not (pa.types.is_string(self.type) or pa.types.is_binary(self.type)):
            raise OptionError(f"format 'raw' has no form for {from_arrow(self.type)}", hint="declare STRING or BYTES")


class RawDecoder(Decoder):
    """One value per record."""

    changelog = Changelog.APPEND

    def __init__(self, schema: pa.Schema, options: Mapping[str, str]) -> None:
        self.schema = schema
        self._layout = _Layout(schema, options)

    def decode(self, records: Records) -> Decoded:
        """See `Decoder.decode`; a record without a value gives a row with NULL."""
        layout, values = self._layout, records.values
        if layout.dtype is not None:
            column, reasons = self._numbers(values)
        elif pa.types.is_binary(layout.type):
            column, reasons = values.cast(layout.type), {}
        else:
            column, reasons = self._texts(values)
        if not layout.nullable and values.null_count:
            absent = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))
            reasons |= {int(i): "the record has no value, but the column is NOT NULL" for i in absent}
        record = np.arange(len(values))
        if reasons:
            record = np.setdiff1d(record, np.array(list(reasons), np.int64))
            column = column.take(pa.array(record))
        dead = tuple(dead_letter(records, i, reason) for i, reason in sorted(reasons.items()))
        return Decoded(Batch(pa.RecordBatch.from_arrays([column], schema=self.schema)), record, dead)

    def _texts(self, values: pa.BinaryArray) -> tuple[pa.Array, dict[int, str]]:
        if self._layout.utf8:
            try:
                return values.cast(pa.string()), {}
            except pa.ArrowInvalid:
                pass  # found one by one below
        texts: list[str | None] = []
        reasons: dict[int, str] = {}
        for i, value in enumerate(values.to_pylist()):
            try:
                texts.append(None if value is None else value.decode(self._layout.charset))
            except UnicodeDecodeError as error:
                texts.append(None)
                reasons[i] = f"invalid {self._layout.charset} at byte {error.start}"
        return pa.array(texts, pa.string()), reasons

    def _numbers(self, values: pa.BinaryArray) -> tuple[pa.Array, dict[int, str]]:
        dtype = self._layout.dtype
        assert dtype is not None
        listed = values.to_pylist()
        width, zero = dtype.itemsize, bytes(dtype.itemsize)
        reasons = {
            i: f"expected {width} bytes, found {len(v)}"
            for i, v in enumerate(listed)
            if v is not None and len(v) != width
        }
        joined = b"".join(v if v is not None and len(v) == width else zero for v in listed)
        numbers: npt.NDArray[np.generic] = np.frombuffer(joined, dtype).astype(dtype.newbyteorder("="))
        absent = np.array([v is None for v in listed], bool)
        return pa.array(numbers, self._layout.type, mask=absent), reasons


class RawEncoder(Encoder):
    """One record per value."""

    def __init__(self, schema: pa.Schema, options: Mapping[str, str]) -> None:
        self._layout = _Layout(schema, options)

    def encode(self, batch: Batch) -> pa.BinaryArray:
        """See `Encoder.encode`; text that the charset lacks is written with replacement characters."""
        column, layout = batch.rows.column(0), self._layout
        if layout.dtype is None:
            if pa.types.is_binary(layout.type) or layout.utf8:
                return column.cast(pa.binary())
            texts = column.to_pylist()
            return pa.array([None if t is None else t.encode(layout.charset, "replace") for t in texts], pa.binary())
        zero = pa.scalar(0).cast(column.type)
        numbers = column.fill_null(zero).to_numpy(zero_copy_only=False).astype(layout.dtype)
        data, width = numbers.tobytes(), layout.dtype.itemsize
        valid = column.is_valid().to_pylist()
        return pa.array([data[i * width : (i + 1) * width] if v else None for i, v in enumerate(valid)], pa.binary())
