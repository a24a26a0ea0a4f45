"""Columns as text fragments, and records out of them: the one place that passes addresses to `kernels.assemble`.

A `Text` is a column whose values are slices of one byte array; NULLs are marked beside it. Brackets (the quotes of a string, the
braces of an object) are not part of the slices: they are written when the value is put in place, so that an Arrow
string column is a `Text` as it is. A `Template` holds the constant text of a record; `assemble` interleaves the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.errors import DataError
from forebay.engine.state import arrays
from forebay.kernels import assemble as kernels

Bytes = npt.NDArray[np.uint8]
Int32s = npt.NDArray[np.int32]
Frame = tuple[bytes, bytes]
"""What stands before and behind a record's values."""

NOTHING: Bytes = np.zeros(0, np.uint8)
"""No marks: no value is NULL, no record is marked."""
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Text:
    """Values data[starts[i]:ends[i]] between two `brackets` (b"" or two bytes)."""

    data: Bytes
    starts: Int32s
    ends: Int32s
    null: Bytes
    """1 where NULL; `NOTHING` if no value is. The slice of a NULL has no meaning."""
    brackets: bytes = b""

    @classmethod
    def of(cls, data: Bytes, offsets: Int32s, null: Bytes, brackets: bytes = b"") -> Text:
        """Values that lie one behind the other; `offsets` holds one more than there are values."""
        return cls(data, offsets[:-1], offsets[1:], null, brackets)

    @property
    def nbytes(self) -> int:
        """At least what all values take, brackets included."""
        return int(np.subtract(self.ends, self.starts, dtype=np.int64).sum()) + len(self.starts) * len(self.brackets)

    def row(self) -> tuple[int, ...]:
        """The column for the kernel; valid while `self` lives."""
        null = self.null.ctypes.data if len(self.null) else 0
        addresses = (self.data.ctypes.data, self.starts.ctypes.data, self.ends.ctypes.data, null)
        return (*addresses, *(self.brackets or (0, 0)))


def room(count: int) -> Bytes:
    """Memory of Arrow's pool to write to, which keeps it at hand: numpy's would be mapped and given back with every batch.

    Raises:
        DataError: it is more than Arrow's offsets can tell apart.
    """
    if count > _MOST:
        raise DataError("the records of one batch exceed 2 GiB", hint="write shorter values, or smaller batches")
    return np.frombuffer(pa.allocate_buffer(max(count, 1)), np.uint8)


def room_for_offsets(n: int) -> Int32s:
    """Memory for the n + 1 offsets of n values."""
    return room(4 * (n + 1)).view(np.int32)


def marks(array: pa.Array) -> Bytes:
    """1 where NULL; `NOTHING` if no value is."""
    return arrays.is_null(array).view(np.uint8) if array.null_count else NOTHING


def passed(array: pa.Array, brackets: bytes = b"") -> Text:
    """An Arrow string or binary column as it is."""
    offsets, data = arrays.text(array)
    return Text.of(data, offsets, marks(array), brackets)


class Template:
    """The constant text of a record: one label before each value, a head and a tail, which may differ in marked records.

    The first label of a record loses its first `drop` bytes, the separator. NULL is written as `null`, or left out with its
    label (`skip`).
    """

    def __init__(
        self,
        labels: Sequence[bytes],
        plain: Frame = (b"", b""),
        marked: Frame = (b"", b""),
        null: bytes = b"null",
        drop: int = 0,
        skip: bool = False,
    ) -> None:
        parts = (*plain, *marked, null, *labels)
        self.constants: Bytes = np.frombuffer(b"".join(parts) + bytes(kernels.SLACK), np.uint8)
        self.places = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        self.drop = drop
        self.skip = skip
        frame = max(sum(map(len, plain)), sum(map(len, marked)))
        self.width = frame + sum(map(len, labels))
        """At least what the constants of a record take, those of NULLs apart."""
        self.null_width = len(null)


def assemble(template: Template, columns: Sequence[Text], n: int, marked: Bytes = NOTHING) -> tuple[Bytes, Int32s]:
    """The `n` records of parallel columns as (bytes, Arrow offsets).

    Raises:
        DataError: they could take more than 2 GiB.
    """
    nulls = sum(template.null_width for c in columns if len(c.null))
    bound = (template.width + nulls) * n + sum(c.nbytes for c in columns)
    out, offsets = room(bound + kernels.SLACK), room_for_offsets(n)
    table = np.array([c.row() for c in columns], np.int64).reshape(-1, 6)
    size = kernels.assemble(
        table, template.constants, template.places, template.drop, template.skip, marked, out, offsets
    )
    records = out[:size]
    # what NULLs leave unused must not live as long as the records
    return (records if 2 * size >= bound else records.copy()), offsets


def binary(data: Bytes, offsets: Int32s) -> pa.BinaryArray:
    """Records as an Arrow column."""
    return pa.BinaryArray.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


_LINE = Template([b""], (b"", b"\n"))


def lines(records: pa.BinaryArray) -> Bytes:
    """Records, none of them NULL, with a line break behind each."""
    return assemble(_LINE, [passed(records)], len(records))[0]
