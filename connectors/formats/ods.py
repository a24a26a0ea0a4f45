"""Format 'ods-json': one envelope for database changes and log events alike.

    {"op": "UPDATE", "event_time": "2024-01-31 12:00:00Z", "database_name": "shop", "table_name": "orders",
     "before": {...}, "after": {...}, "log_position": "mysql-bin.000001:4"}

`op` is INSERT, UPDATE or DELETE; an update holds both whole rows; a log event is an INSERT. A table of this format has the
columns of the row and is a changelog, as with 'debezium-json'. With 'ods-json.envelope' = 'true' it has the columns of the
envelope (before and after as JSON text) and any further columns, which stand beside them; it is append-only, both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors import options as read
from forebay.connectors.formats.batches import Statement
from forebay.connectors.formats.canal import DATABASES, TABLES, filtered, pattern_of
from forebay.connectors.formats.changes import (
    DELETE,
    INSERT,
    NOTHING,
    UPDATE,
    Change,
    Columns,
    Dialect,
    Event,
    Image,
    Reading,
    epoch_millis,
    image_of,
    op_codes,
    text_at,
)
from forebay.connectors.formats.documents import Malformed, kind
from forebay.connectors.formats.envelope import ENVELOPE, change_decoder, check_columns
from forebay.connectors.formats.json import IGNORE_ERRORS, WRITE_OPTIONS, rules_of
from forebay.connectors.formats.json_text import check_writable, object_text, rows_text, style_of, value_text
from forebay.connectors.formats.shape import Scan, Slot
from forebay.engine.batch import Batch
from forebay.engine.connector import Decoder, Encoder, Option
from forebay.engine.errors import DataError, OptionError, nearest

DATABASE_NAME = Option("database-name", "what 'database_name' is in messages written from rows")
TABLE_NAME = Option("table-name", "what 'table_name' is in messages written from rows")
EVENT_TIME = Option("event-time-column", "the column whose value is 'event_time' in messages written from rows")
OPTIONS = (DATABASES, TABLES, DATABASE_NAME, TABLE_NAME, EVENT_TIME, ENVELOPE, IGNORE_ERRORS, *WRITE_OPTIONS)

_OPS = {"INSERT": INSERT, "UPDATE": UPDATE, "DELETE": DELETE}
_WIRE = {"database": "database_name", "table": "table_name", "event-time": "event_time", "log-position": "log_position"}

METADATA: Mapping[str, pa.DataType] = {
    "database": pa.string(),
    "table": pa.string(),
    "event-time": pa.timestamp("ms", tz="UTC"),
    "log-position": pa.string(),
}


class OdsDialect(Dialect):
    """The unified envelope."""

    name = "ods-json"
    metadata = METADATA
    open_envelope = True
    members: Mapping[str, tuple[tuple[str, ...], Reading]] = {
        key: ((name,), Reading.TEXT) for key, name in _WIRE.items() if key != "event-time"
    }
    before_hint = "declare a PRIMARY KEY: updates then need no before image"

    def __init__(self, options: Mapping[str, str]) -> None:
        patterns = (("database_name", pattern_of(options, DATABASES)), ("table_name", pattern_of(options, TABLES)))
        self._filters = [(name, pattern) for name, pattern in patterns if pattern is not None]

    def interpret(self, document: Mapping[str, Any]) -> Event:
        for name, pattern in self._filters:
            if not pattern.fullmatch(text_at(document, name) or ""):
                return Event()
        op, database, table = document.get("op"), text_at(document, "database_name"), text_at(document, "table_name")
        if op == "DDL":
            return Event(statement=Statement(database, table, text_at(document, "statement") or "DDL"))
        if not isinstance(op, str) or op not in _OPS:
            shown = repr(op[:20]) if isinstance(op, str) else kind(op)
            raise Malformed(f"'op' must be INSERT, UPDATE or DELETE, found {shown}" if op else "'op' is missing")
        before, after = image_of(document.get("before"), "before"), image_of(document.get("after"), "after")
        return Event((Change(_OPS[op], before, after),), None, database, table, document.get("event_time"))

    def value(self, key: str, document: Mapping[str, Any]) -> Any:
        value = document.get(_WIRE[key])
        return epoch_millis(value) if key == "event-time" and type(value) is int else value

    def position(self, document: Mapping[str, Any]) -> Any:
        return document.get("log_position")

    def samples(self, document: Mapping[str, Any]) -> Sequence[Image]:
        return [i for i in (document.get("after"), document.get("before")) if isinstance(i, dict)]

    def wanted(self, row: pa.DataType) -> dict[str, Any]:
        filters = {name: pa.string() for name, _ in self._filters}
        return {"before": row, "after": row, "op": pa.string(), **filters}

    def columns(self, scan: Scan, root: Slot) -> Columns:
        op, left = op_codes(scan, root["op"], _OPS)
        op, left = filtered(scan, root, self._filters, op, left)
        row = np.flatnonzero((op != NOTHING) & ~left)
        return Columns(row, op[row], root["before"], root["after"], row, ~row, left)


def decoder(schema: pa.Schema, options: Mapping[str, str]) -> Decoder:
    """A decoder of 'ods-json'."""
    return change_decoder(OdsDialect(options), schema, options, rules_of(options))


class OdsEncoder(Encoder):
    """Rows to messages: an insertion holds the row after, a deletion the row before."""

    def __init__(self, schema: pa.Schema, options: Mapping[str, str]) -> None:
        for column in schema:
            check_writable(column.type)
        self._style = style_of(options)
        self._time = read.text(options, EVENT_TIME)
        if self._time is not None and self._time not in schema.names:
            close = nearest(self._time, schema.names)
            raise OptionError(
                f"option '{EVENT_TIME.name}': there is no column '{self._time}'",
                hint=f"did you mean '{close}'?" if close else f"columns: {', '.join(schema.names)}",
            )
        names = (("database_name", DATABASE_NAME), ("table_name", TABLE_NAME))
        given = [(member, read.text(options, option)) for member, option in names]
        self._names = "".join(f',"{m}":{orjson.dumps(v).decode()}' for m, v in given if v is not None)

    def encode(self, batch: Batch) -> pa.BinaryArray:
        """See `Encoder.encode`."""
        row = rows_text(batch.rows, self._style)
        deletions = pa.array(batch.weight_array() < 0)
        no_image = pa.scalar("null")
        parts = [
            pc.if_else(deletions, pa.scalar('{"op":"DELETE"'), pa.scalar('{"op":"INSERT"')),
            *self._event_time(batch),
            pa.scalar(self._names + ',"before":'),
            pc.if_else(deletions, row, no_image),
            pa.scalar(',"after":'),
            pc.if_else(deletions, no_image, row),
            pa.scalar("}"),
        ]
        return pc.binary_join_element_wise(*parts, pa.scalar("")).cast(pa.binary())

    def _event_time(self, batch: Batch) -> list[pa.Array | pa.Scalar]:
        if self._time is None:
            return []
        return [
            pa.scalar(',"event_time":'),
            value_text(_zoned(batch.rows.column(self._time)), self._style).fill_null("null"),
        ]


def _zoned(column: pa.Array) -> pa.Array:
    """A TIMESTAMP is taken as UTC."""
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        return column.cast(pa.timestamp(column.type.unit, tz="UTC"))
    return column


class EnvelopeEncoder(Encoder):
    """Rows of an envelope table to messages; before and after are JSON already."""

    def __init__(self, schema: pa.Schema, options: Mapping[str, str]) -> None:
        check_columns(schema, others=True)
        missing = {"op"} - set(schema.names)
        if missing or not {"before", "after"} & set(schema.names):
            raise OptionError("an envelope that is written needs column 'op', and 'before' or 'after'")
        for column in schema:
            check_writable(column.type)
        self._style = style_of(options)

    def encode(self, batch: Batch) -> pa.BinaryArray:
        """See `Encoder.encode`.

        Raises:
            DataError: a deletion, since an envelope is append-only; an image that is no JSON object.
        """
        if batch.weights is not None and (batch.weights < 0).any():
            raise DataError(
                "an envelope is append-only: a deletion cannot be written",
                hint="insert rows with op = 'DELETE', or write the rows themselves without 'ods-json.envelope'",
            )
        rows = batch.rows
        raw = frozenset(n for n in ("before", "after") if n in rows.schema.names)
        for name in raw:
            _check_objects(name, rows.column(name))
        return object_text(rows.schema.names, rows.columns, rows.num_rows, self._style, raw).cast(pa.binary())


def _check_objects(name: str, images: pa.StringArray) -> None:
    objects = pc.match_substring_regex(images, r"(?s)^\s*\{.*\}\s*$")
    if not pc.all(objects, min_count=0).as_py():
        shown = images.filter(pc.invert(objects))[0].as_py()[:60]
        raise DataError(f"column '{name}' of an envelope must hold a JSON object, found {shown!r}")


def encoder(schema: pa.Schema, options: Mapping[str, str]) -> Encoder:
    """An encoder of 'ods-json'."""
    return EnvelopeEncoder(schema, options) if read.boolean(options, ENVELOPE) else OdsEncoder(schema, options)
