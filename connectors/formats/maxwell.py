"""Format 'maxwell-json': {database, table, type, ts, data: row, old: changed fields}; one change per record.

`ts` counts seconds. Bootstrap inserts are inserts; 'bootstrap-start' and '-complete' give nothing; 'table-alter' and its kin
are statements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from forebay.connectors.formats.batches import Statement
from forebay.connectors.formats.changes import (
    DELETE,
    INSERT,
    UPDATE,
    Change,
    Columns,
    Dialect,
    Event,
    Image,
    Reading,
    image_of,
    op_codes,
    text_at,
)
from forebay.connectors.formats.documents import Instant, Malformed, kind, text_of
from forebay.connectors.formats.envelope import ENVELOPE, change_decoder
from forebay.connectors.formats.json import IGNORE_ERRORS, WRITE_OPTIONS, rules_of
from forebay.connectors.formats.shape import NULL, OBJECT, Scan, Slot
from forebay.engine.connector import Decoder

OPTIONS = (ENVELOPE, IGNORE_ERRORS, *WRITE_OPTIONS)

_MILLIS = pa.timestamp("ms", tz="UTC")
_OPS = {"insert": INSERT, "bootstrap-insert": INSERT, "update": UPDATE, "delete": DELETE}
_SILENT = frozenset(("bootstrap-start", "bootstrap-complete", "heartbeat"))
_STATEMENTS = tuple(f"{what}-{verb}" for what in ("table", "database") for verb in ("create", "alter", "drop"))

METADATA: Mapping[str, pa.DataType] = {
    "database": pa.string(),
    "table": pa.string(),
    "primary-key-columns": pa.list_(pa.string()),
    "ingestion-timestamp": _MILLIS,
}


class MaxwellDialect(Dialect):
    """Maxwell's daemon."""

    name = "maxwell-json"
    metadata = METADATA
    members: Mapping[str, tuple[tuple[str, ...], Reading]] = {
        "database": (("database",), Reading.TEXT),
        "table": (("table",), Reading.TEXT),
        "ingestion-timestamp": (("ts",), Reading.SECONDS),
    }
    before_hint = "MySQL sends it with binlog_row_image = FULL"

    def interpret(self, document: Mapping[str, Any]) -> Event:
        database, table, op = text_at(document, "database"), text_at(document, "table"), document.get("type")
        if op in _STATEMENTS:
            text = text_at(document, "sql") or f"{op}: {text_of(document.get('def'))}"
            return Event(statement=Statement(database, table, text))
        if isinstance(op, str) and op in _SILENT:
            return Event()
        if not isinstance(op, str) or op not in _OPS:
            shown = repr(op[:20]) if isinstance(op, str) else kind(op)
            raise Malformed(f"'type' must be insert, update or delete, found {shown}" if op else "'type' is missing")
        data, old = image_of(document.get("data"), "data"), image_of(document.get("old"), "old")
        if data is None:
            raise Malformed("'data' is missing")
        match _OPS[op]:
            case code if code == INSERT:
                change = Change(INSERT, None, data)
            case code if code == DELETE:
                change = Change(DELETE, data, None)
            case _:
                change = Change(UPDATE, None if old is None else {**data, **old}, data)
        ts = document.get("ts")
        return Event((change,), None, database, table, ts * 1000 if type(ts) is int else None)

    def value(self, key: str, document: Mapping[str, Any]) -> Any:
        match key:
            case "ingestion-timestamp":
                ts = document.get("ts")
                return Instant(ts * 10**9, ts) if type(ts) is int else None
            case "primary-key-columns":
                return document.get("primary_key_columns")
        return document.get(key)

    def position(self, document: Mapping[str, Any]) -> Any:
        return document.get("position") or document.get("xid")

    def samples(self, document: Mapping[str, Any]) -> Sequence[Image]:
        return [i for i in (document.get("data"), document.get("old")) if isinstance(i, dict)]

    def wanted(self, row: pa.DataType) -> dict[str, Any]:
        return {"data": row, "old": row, "type": pa.string()}

    def columns(self, scan: Scan, root: Slot) -> Columns:
        op, left = op_codes(scan, root["type"], _OPS)
        old = scan.kinds(root["old"])
        left |= ((op == UPDATE) & (old != OBJECT)) | ((old != OBJECT) & (old > NULL))
        row = np.arange(len(op))
        return Columns(row, op, root["data"], root["old"], row, row, left, np.where(op == UPDATE, ~row, 0))


def decoder(schema: pa.Schema, options: Mapping[str, str]) -> Decoder:
    """A decoder of 'maxwell-json'."""
    return change_decoder(MaxwellDialect(), schema, options, rules_of(options))
