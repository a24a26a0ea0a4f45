"""Text to SQL values, a column at a time, by Arrow's casts. Refuses (`Inexact`) what could differ from `values`."""

from __future__ import annotations

import binascii

import pyarrow as pa
import pyarrow.compute as pc


class Inexact(Exception):
    """The columnar reader cannot vouch for this batch."""


def chunk(column: pa.ChunkedArray) -> pa.Array:
    """The one array of a column."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def finish(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """What the reader fetched, as the column's type.

    Raises:
        Inexact: some value needs a closer look.
    """
    try:
        return _finish(array, type_)
    except (pa.ArrowException, ValueError):
        raise Inexact from None


def _finish(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if pa.types.is_floating(type_):
        numbers = array.cast(type_)
        if not pc.all(pc.is_finite(numbers), min_count=0).as_py():
            raise Inexact
        return numbers
    if pa.types.is_decimal(type_):
        numbers = array.cast(type_)
        numbers.validate(full=True)  # neither the reader nor the cast checks the precision after rescaling
        return numbers
    if pa.types.is_integer(type_) and pc.any(pc.match_substring(array, "x", ignore_case=True)).as_py():
        raise Inexact  # the cast would read hexadecimal
    if pa.types.is_binary(type_):
        return pa.array(
            [None if v is None else binascii.a2b_base64(v, strict_mode=True) for v in array.to_pylist()], type_
        )
    if pa.types.is_time(type_):
        moments = pc.binary_join_element_wise(_MIDNIGHT, array, " ").cast(pa.timestamp("ms"))
        return moments.cast(type_)
    return array.cast(type_)


_MIDNIGHT = pa.scalar("1970-01-01")
