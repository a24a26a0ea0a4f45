"""JSON values to SQL values, a column at a time: the fast twin of `values`.

`wire_type` chooses, from a few sampled documents, the Arrow type in which pyarrow's JSON reader fetches a column: the type
itself, text that is cast afterwards ('"12"' for an INT, every temporal type), or an epoch number. `finish` casts what was
fetched. Both refuse with `Inexact` whenever the result could differ from `values`; the caller then looks closer.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from forebay.connectors.formats.documents import Number
from forebay.connectors.formats.values import Rules


class Inexact(Exception):
    """The columnar reader cannot vouch for this batch."""


def wire_type(type_: pa.DataType, samples: Sequence[Any], rules: Rules) -> pa.DataType:
    """The type to ask pyarrow's reader for, given sampled values of the column (None where absent).

    Raises:
        Inexact: the reader has no such type (MAP).
    """
    present = [s for s in samples if s is not None]
    if pa.types.is_map(type_):
        raise Inexact
    if pa.types.is_struct(type_):
        inner = [s for s in present if isinstance(s, dict)]
        return pa.struct([(f.name, wire_type(f.type, [s.get(f.name) for s in inner], rules)) for f in type_])
    if pa.types.is_list(type_):
        elements = [e for s in present if isinstance(s, list) for e in s[:4]]
        return pa.list_(wire_type(type_.value_type, elements, rules))
    textual = any(type(s) is str for s in present)
    if pa.types.is_string(type_) and present and all(type(s) is int for s in present):
        return pa.int64()  # its text is the number as written
    if pa.types.is_temporal(type_):
        numeric = rules.epochs and any(type(s) is int for s in present)
        return pa.int64() if numeric and not textual else pa.string()
    if textual or pa.types.is_binary(type_):
        return pa.string()
    if pa.types.is_integer(type_) and any(isinstance(s, Number) for s in present):
        raise Inexact
    return type_


def read_table(values: pa.BinaryArray, schema: pa.Schema) -> pa.Table:
    """One row per record, which each begin with '{' and end with '}'. Such a record holds at least one document and none
    spans two records, so an equal count means one document each.

    Raises:
        Inexact: some record is not one valid document of that schema.
    """
    joined = pc.binary_join_element_wise(values, b"", b"\n").buffers()[2]
    read = pj.ReadOptions(use_threads=False, block_size=joined.size + 1)
    if not len(schema):
        schema = pa.schema([("", pa.null())])  # without any column the reader forgets the number of rows
    parse = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = pj.read_json(pa.BufferReader(joined), read_options=read, parse_options=parse)
    except (pa.ArrowException, ValueError):
        raise Inexact from None
    if table.num_rows != len(values):
        raise Inexact
    return table


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
    if pa.types.is_struct(type_):
        children = [_finish(array.field(i), f.type) for i, f in enumerate(type_)]
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(children, fields=list(type_), mask=mask)
    if pa.types.is_list(type_):
        inner = _finish(array.values, type_.value_type)
        mask = array.is_null() if array.null_count else None
        return pa.ListArray.from_arrays(array.offsets, inner, type=type_, mask=mask)
    if pa.types.is_floating(type_):
        numbers = array.cast(type_)
        if not pc.all(pc.is_finite(numbers), min_count=0).as_py():
            raise Inexact
        return numbers
    if pa.types.is_decimal(type_):
        numbers = array.cast(type_)
        numbers.validate(full=True)  # neither the reader nor the cast checks the precision after rescaling
        return numbers
    if array.type == type_:
        return array
    if pa.types.is_string(array.type):
        return _from_text(array, type_)
    return _from_epoch(array, type_)


def _from_text(array: pa.Array, type_: pa.DataType) -> pa.Array:
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
_MILLI = pa.scalar(1000, pa.int64())
_DAY = pa.scalar(86_400_000_000, pa.int64())


def _from_epoch(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if pa.types.is_date(type_):
        return array.cast(pa.int32()).cast(type_)
    if pa.types.is_time(type_):
        bounds = pc.min_max(array)
        if len(array) > array.null_count and (bounds["min"].as_py() < 0 or bounds["max"].as_py() >= _DAY.as_py()):
            raise Inexact
        return pc.divide(array, _MILLI).cast(pa.int32()).cast(type_)
    return array.cast(type_)
