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
import pyarrow as pa

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
from forebay.connectors.formats.envelope import ENVELOPE, change_decoder
from forebay.connectors.formats.json import IGNORE_ERRORS, WRITE_OPTIONS, rules_of
from forebay.connectors.formats.shape import Scan, Slot
from forebay.engine.connector import Decoder, Encoder, Option

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


def encoder(schema: pa.Schema, options: Mapping[str, str]) -> Encoder:
    """An encoder of 'ods-json'; its kernels load with the first one."""
    from forebay.connectors.formats.ods_text import EnvelopeEncoder, OdsEncoder

    return EnvelopeEncoder(schema, options) if read.boolean(options, ENVELOPE) else OdsEncoder(schema, options)
