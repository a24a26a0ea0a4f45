"""Changes as rows of their own: what '<format>.envelope' = 'true' makes of canal, debezium, maxwell, ogg and ods messages.

One row per change, append-only, whatever table it is for: op (INSERT, UPDATE, DELETE), event_time, database_name,
table_name, before and after (the row images as JSON text), log_position (in the database's log). A table declares any of these
columns. So one INSERT ... SELECT splits a mixed binlog topic by table.

Images keep their numbers exactly as written: records without fractions, exponents or integers beyond 18 digits are read by
orjson, all others by the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors import options as read
from forebay.connectors.formats.batches import (
    BatchDecoder,
    Mask,
    Part,
    Rows,
    Statement,
    missing_values,
    not_null_check,
    settled,
    split_schema,
)
from forebay.connectors.formats.changes import (
    DELETE,
    INSERT,
    UPDATE,
    Change,
    ChangeDecoder,
    Dialect,
    Event,
    epoch_millis,
)
from forebay.connectors.formats.documents import MAX_DEPTH, Malformed, text_of
from forebay.connectors.formats.json import IGNORE_ERRORS, rows_of
from forebay.connectors.formats.values import Rules, converter
from forebay.engine.connector import Changelog, Decoder, Option
from forebay.engine.errors import OptionError, nearest
from forebay.engine.types import from_arrow

ENVELOPE = Option.boolean(
    "envelope", "rows are the changes themselves: op, event_time, database_name, table_name, before, after"
)
COLUMNS: Mapping[str, pa.DataType] = {
    "op": pa.string(),
    "event_time": pa.timestamp("ms", tz="UTC"),
    "database_name": pa.string(),
    "table_name": pa.string(),
    "before": pa.string(),
    "after": pa.string(),
    "log_position": pa.string(),
}
OP_NAMES = {INSERT: "INSERT", UPDATE: "UPDATE", DELETE: "DELETE"}

Column = Callable[[Event, Change, Mapping[str, Any]], Any]


def check_columns(schema: pa.Schema, others: bool = False) -> None:
    """Refuse columns that an envelope does not have; `others` admits columns of further names.

    Raises:
        OptionError: naming the column and what would be right.
    """
    for column in schema:
        if column.name not in COLUMNS:
            if others:
                continue
            close = nearest(column.name, COLUMNS)
            hint = f"did you mean '{close}'?" if close else f"an envelope has: {', '.join(COLUMNS)}"
            raise OptionError(f"an envelope has no column '{column.name}'", hint=hint)
        wanted = COLUMNS[column.name]
        same = (
            pa.types.is_timestamp(column.type) and column.type.tz
            if pa.types.is_timestamp(wanted)
            else column.type == wanted
        )
        if not same:
            raise OptionError(
                f"column '{column.name}' of an envelope cannot be {from_arrow(column.type)}",
                hint=f"declare it {from_arrow(wanted)}",
            )


class EnvelopeDecoder(BatchDecoder):
    """Messages of one dialect to rows of their changes."""

    changelog = Changelog.APPEND

    def __init__(self, dialect: Dialect, schema: pa.Schema, options: Mapping[str, str]) -> None:
        self.schema = schema
        self.skip_bad = read.boolean(options, IGNORE_ERRORS)
        self._dialect = dialect
        physical, metadata = split_schema(schema, dialect.metadata)
        check_columns(physical, others=dialect.open_envelope)
        self._columns = [_column(f, metadata.get(f.name), dialect) for f in schema]
        self._check = not_null_check(schema)

    def read_columns(self, values: pa.BinaryArray) -> tuple[Part, Mask]:
        inexact = pc.fill_null(pc.match_substring_regex(values, _INEXACT), False)
        left: Mask = inexact.to_numpy(zero_copy_only=False).copy()
        # Only values are kept, no documents: a heap of live containers would keep Python's garbage collector busy.
        lists: list[list[Any]] = [[] for _ in self._columns]
        steps, record = [(kept.append, get) for kept, get in zip(lists, self._columns)], list[int]()
        for i, value in enumerate(values.to_pylist()):
            if value is None or left[i]:
                continue
            try:
                document = _quickly(value)
                event = self._dialect.interpret(document)
            except (orjson.JSONDecodeError, Malformed):
                left[i] = True
                continue
            if event.statement is not None:
                left[i] = True
                continue
            for change in event.changes:
                for append, get in steps:
                    append(get(event, change, document))
                record.append(i)
        columns = [pa.array(kept, f.type) for kept, f in zip(lists, self.schema)]
        rows, at = rows_of(columns, self.schema, len(record)), np.array(record, np.int64)
        empty = missing_values(rows, at, len(values))
        if empty is not None:
            left |= empty
        return settled(rows, at, None, left), left

    def read_document(self, document: Mapping[str, Any]) -> Rows | Statement:
        event = self._dialect.interpret(document)
        if event.statement is not None:
            return event.statement
        rows: Rows = []
        for change in event.changes:
            row = tuple([get(event, change, document) for get in self._columns])
            self._check(row)
            rows.append((1, row))
        return rows

    def unknown_fields(self, document: Mapping[str, Any]) -> Sequence[str]:
        return ()


_INEXACT = r'(?:"\s*:|[,\[])\s*-?\d+(?:[.eE]|\d{18})|\\u[dD][89a-fA-F]|[:,\[]\s*-?(?:NaN|Inf)'
"""Possibly a number, or half of a surrogate pair, that orjson would not keep as it is."""


def _quickly(value: bytes) -> dict[str, Any]:
    """The document of a record that orjson reads as the reference does.

    Raises:
        Malformed: perhaps it does not.
        orjson.JSONDecodeError: the same.
    """
    document = orjson.loads(value)
    deep = len(value) > 2 * MAX_DEPTH and value.count(b"[") + value.count(b"{") > MAX_DEPTH
    if deep or not isinstance(document, dict):
        raise Malformed("left to the reference")
    return document


def _column(field: pa.Field, key: str | None, dialect: Dialect) -> Column:
    """How a value is found: a metadata column of `key`, one of the envelope's, or a further field of the document."""
    convert = converter(field.type, Rules(null_on_error=True, epochs=True))
    if key is not None:
        return lambda event, change, document: convert(dialect.value(key, document))
    match field.name:
        case "op":
            return lambda event, change, document: OP_NAMES[change.op]
        case "event_time":
            return lambda event, change, document: convert(_time(event))
        case "database_name":
            return lambda event, change, document: convert(event.database)
        case "table_name":
            return lambda event, change, document: convert(event.table)
        case "before":
            return lambda event, change, document: None if change.before is None else text_of(change.before)
        case "after":
            return lambda event, change, document: None if change.after is None else text_of(change.after)
        case "log_position":
            return lambda event, change, document: convert(dialect.position(document))
    return lambda event, change, document: convert(document.get(field.name))


def _time(event: Event) -> Any:
    return epoch_millis(event.time) if type(event.time) is int else event.time


def change_decoder(dialect: Dialect, schema: pa.Schema, options: Mapping[str, str], rules: Rules) -> Decoder:
    """The decoder of a dialect: of its rows, or with 'envelope' of the changes themselves."""
    if read.boolean(options, ENVELOPE):
        return EnvelopeDecoder(dialect, schema, options)
    return ChangeDecoder(dialect, schema, options, rules)
