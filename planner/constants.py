"""Constants as rows, without being planned: each column in the type that the planner has found for it.

Only what is sure to be what DataFusion would make of the same text is made; of all else there are no rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from forebay.planner.statements import Constants

_TIMES = {
    "date": r"^[12]\d{3}-\d\d-\d\d$",
    "timestamp": r"^[12]\d{3}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?$",
}


def rows_of(columns: Sequence[Constants], schema: pa.Schema) -> pa.Table | None:
    """The columns as a table of the schema; None if a constant is not surely one of its column's type."""
    try:
        made = [_column(column, field.type) for column, field in zip(columns, schema, strict=True)]
    except (pa.ArrowInvalid, OverflowError):
        return None
    arrays = [array for array in made if array is not None]
    return pa.Table.from_arrays(arrays, schema=schema) if len(arrays) == len(schema) else None


def _column(column: Constants, wanted: pa.DataType) -> pa.Array | None:
    t, values = pa.types, column.values
    match column.kind:
        case "null":
            return pa.nulls(len(values), wanted)
        case "integer" if t.is_integer(wanted):
            return pa.array(values, wanted)
        case "decimal" if t.is_decimal(wanted):
            return pa.array([None if v is None else Decimal(v) for v in values], wanted)
        case "float" if t.is_float64(wanted):
            floats = [None if v is None else float(v) for v in values]
            return None if math.inf in map(abs, filter(None, floats)) else pa.array(floats, wanted)
        case "string" if t.is_string(wanted):
            return pa.array(values, wanted)
        case "boolean" if t.is_boolean(wanted):
            return pa.array(values, wanted)
        case "date" | "timestamp" as kind if t.is_date32(wanted) or wanted == pa.timestamp("us"):
            texts = pa.array(values, pa.string())
            plain = pc.match_substring_regex(texts, _TIMES[kind])
            return texts.cast(wanted) if pc.all(plain).as_py() is not False else None
    return None
