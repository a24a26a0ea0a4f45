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

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors import options as read
from forebay.connectors.formats.batches import (
    BatchDecoder,
    Collected,
    Mask,
    Part,
    Rows,
    Statement,
    not_null_check,
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
    Image,
    epoch_millis,
)
from forebay.connectors.formats.documents import Malformed, text_of
from forebay.connectors.formats.json import IGNORE_ERRORS
from forebay.connectors.formats.values import Converter, Rules, converter
from forebay.engine.connector import Changelog, Decoder, Option
from forebay.engine.errors import OptionError, nearest
from forebay.engine.types import from_arrow

ENVELOPE = Option(
    "envelope", "rows are the changes themselves: op, event_time, database_name, table_name, before, after", "false"
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

Getter = Callable[[Event, Change, Mapping[str, Any]], Any]


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
        lenient = Rules(null_on_error=True, epochs=True)
        self._getters: list[Getter] = []
        for column in schema:
            convert = converter(column.type, lenient)
            if column.name in metadata:
                self._getters.append(_of_metadata(dialect, metadata[column.name], convert))
            else:
                self._getters.append(_member(column.name, convert, dialect))
        self._check = not_null_check(schema)

    def read_columns(self, values: pa.BinaryArray, samples: Sequence[Mapping[str, Any]]) -> tuple[Part, Mask | None]:
        closer = pc.match_substring_regex(values, _INEXACT).to_numpy(zero_copy_only=False)
        collected = Collected()
        for i, value in enumerate(values.to_pylist()):
            if closer[i]:
                continue
            try:
                made = self.read_document(orjson.loads(value))
            except (orjson.JSONDecodeError, Malformed):
                made = None
            if made is None or isinstance(made, Statement):
                closer[i] = True
                continue
            for weight, row in made:
                collected.rows.append(row)
                collected.record.append(i)
                collected.weights.append(weight)
        return collected.part(self.schema), closer

    def read_document(self, document: Mapping[str, Any]) -> Rows | Statement:
        event = self._dialect.interpret(document)
        if event.statement is not None:
            return event.statement
        rows: Rows = []
        for change in event.changes:
            row = tuple([get(event, change, document) for get in self._getters])
            self._check(row)
            rows.append((1, row))
        return rows

    def unknown_fields(self, document: Mapping[str, Any]) -> Sequence[str]:
        return ()


_INEXACT = r'(?:"\s*:|[,\[])\s*-?\d+(?:[.eE]|\d{18})|\\u[dD][89a-fA-F]|[:,\[]\s*-?(?:NaN|Inf)'
"""Possibly a number, or half of a surrogate pair, that orjson would not keep as it is."""


def _of_metadata(dialect: Dialect, key: str, convert: Converter) -> Getter:
    return lambda event, change, document: convert(dialect.value(key, document))


def _member(name: str, convert: Converter, dialect: Dialect) -> Getter:
    match name:
        case "op":
            return lambda event, change, document: OP_NAMES[change.op]
        case "event_time":
            return lambda event, change, document: convert(_time(event))
        case "database_name":
            return lambda event, change, document: event.database
        case "table_name":
            return lambda event, change, document: event.table
        case "before":
            return lambda event, change, document: _image_text(change.before)
        case "after":
            return lambda event, change, document: _image_text(change.after)
        case "log_position":
            return lambda event, change, document: convert(dialect.position(document))
    return lambda event, change, document: convert(document.get(name))


def _time(event: Event) -> Any:
    return epoch_millis(event.time) if type(event.time) is int else event.time


def _image_text(image: Image | None) -> str | None:
    return None if image is None else text_of(image)


def change_decoder(dialect: Dialect, schema: pa.Schema, options: Mapping[str, str], rules: Rules) -> Decoder:
    """The decoder of a dialect: of its rows, or with 'envelope' of the changes themselves."""
    if read.boolean(options, ENVELOPE):
        return EnvelopeDecoder(dialect, schema, options)
    return ChangeDecoder(dialect, schema, options, rules)
