"""Format 'debezium-json': the envelope {before, after, op, source, ts_ms}, optionally inside {schema, payload}.

With 'schema-include' the payload's schema tells the unit of every temporal field (io.debezium.time.*) and undoes the binary
decimals of Kafka Connect; without it a number for a temporal column is taken in the unit that Debezium's defaults use: days,
microseconds of the day, and ms, µs or ns since 1970 for TIMESTAMP(0-3), (4-6), (7-9). Events of the schema history topic
('ddl') are statements.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from forebay.connectors import options as read
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
    epoch_millis,
    image_of,
    op_codes,
    text_at,
)
from forebay.connectors.formats.documents import Instant, Malformed, Number, kind, text_of
from forebay.connectors.formats.envelope import ENVELOPE, change_decoder
from forebay.connectors.formats.json import IGNORE_ERRORS, WRITE_OPTIONS, rules_of
from forebay.connectors.formats.shape import Scan, Slot
from forebay.engine.connector import Decoder, Option

SCHEMA_INCLUDE = Option.boolean(
    "schema-include", "records are {schema, payload}, as Kafka Connect writes them by default"
)
OPTIONS = (SCHEMA_INCLUDE, ENVELOPE, IGNORE_ERRORS, *WRITE_OPTIONS)

_MILLIS = pa.timestamp("ms", tz="UTC")
_OPS = {"c": INSERT, "r": INSERT, "u": UPDATE, "d": DELETE}
_SOURCE = {"source.database": "db", "source.schema": "schema", "source.table": "table", "source.timestamp": "ts_ms"}
METADATA: Mapping[str, pa.DataType] = {
    "schema": pa.string(),
    "ingestion-timestamp": _MILLIS,
    "source.timestamp": _MILLIS,
    "source.database": pa.string(),
    "source.schema": pa.string(),
    "source.table": pa.string(),
    "source.properties": pa.map_(pa.string(), pa.string()),
}


class DebeziumDialect(Dialect):
    """Debezium's envelope."""

    name = "debezium-json"
    epochs = True
    metadata = METADATA
    before_hint = (
        "PostgreSQL sends it after ALTER TABLE ... REPLICA IDENTITY FULL; "
        "or declare a PRIMARY KEY: updates then need no before image"
    )

    def __init__(self, with_schema: bool) -> None:
        self._with_schema = with_schema
        outer = ("payload",) if with_schema else ()
        self.members = {
            "ingestion-timestamp": ((*outer, "ts_ms"), Reading.MILLIS),
            "source.timestamp": ((*outer, "source", "ts_ms"), Reading.MILLIS),
            **{k: ((*outer, "source", name), Reading.TEXT) for k, name in _SOURCE.items() if name != "ts_ms"},
        }

    def _payload(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        if "op" in document or not isinstance(document.get("payload"), dict):
            return document
        payload: Mapping[str, Any] = document["payload"]
        return payload

    def interpret(self, document: Mapping[str, Any]) -> Event:
        payload = self._payload(document)
        source = payload.get("source")
        source = source if isinstance(source, dict) else {}
        database = text_at(source, "db") or text_at(payload, "databaseName")
        table, time = text_at(source, "table"), source.get("ts_ms", payload.get("ts_ms"))
        if "op" not in payload and type(payload.get("ddl")) is str:
            return Event(statement=Statement(database, table, payload["ddl"]))
        op = payload.get("op")
        if op == "t":
            return Event(statement=Statement(database, table, f"TRUNCATE TABLE {table or ''}".rstrip()))
        if op == "m" or (op is None and {"status", "id"} <= payload.keys()):
            return Event()  # a logical message, or a transaction's boundary
        if not isinstance(op, str) or op not in _OPS:
            shown = repr(op[:20]) if isinstance(op, str) else kind(op)
            raise Malformed(f"'op' must be one of c, r, u, d, found {shown}" if "op" in payload else "'op' is missing")
        images = image_of(payload.get("before"), "before"), image_of(payload.get("after"), "after")
        units = _semantics(document.get("schema")) if payload is not document else {}
        before, after = [
            {n: units[n](v) if n in units else v for n, v in i.items()} if units and i else i for i in images
        ]
        return Event((Change(_OPS[op], before, after),), None, database, table, time)

    def value(self, key: str, document: Mapping[str, Any]) -> Any:
        payload = self._payload(document)
        source = payload.get("source")
        source = source if isinstance(source, dict) else {}
        match key:
            case "schema":
                schema = document.get("schema")
                return None if schema is None or payload is document else text_of(schema)
            case "ingestion-timestamp":
                return epoch_millis(payload.get("ts_ms"))
            case "source.timestamp":
                return epoch_millis(source.get("ts_ms"))
            case "source.properties":
                return source or None
        return source.get(_SOURCE[key])

    def position(self, document: Mapping[str, Any]) -> Any:
        source = self._payload(document).get("source")
        source = source if isinstance(source, dict) else {}
        if source.get("file") is not None:
            return f"{source['file']}:{source.get('pos')}"
        return source.get("lsn") or source.get("scn") or source.get("change_lsn")

    def samples(self, document: Mapping[str, Any]) -> Sequence[Image]:
        payload = self._payload(document)
        return [i for i in (payload.get("after"), payload.get("before")) if isinstance(i, dict)]

    def wanted(self, row: pa.DataType) -> dict[str, Any] | None:
        if not self._with_schema:
            return {"before": row, "after": row, "op": pa.string()}
        if not all(_unitless(f.type) for f in row):
            return None  # a unit in the schema may decide
        return {"payload": {"before": row, "after": row, "op": pa.string()}, "op": pa.string()}

    def columns(self, scan: Scan, root: Slot) -> Columns:
        left = np.zeros(len(scan.record), bool)
        payload = root
        if self._with_schema:
            payload = root["payload"]
            left |= scan.spans(root["op"]) != 0
        op, unknown = op_codes(scan, payload["op"], _OPS)
        row = np.arange(len(op))
        return Columns(row, op, payload["before"], payload["after"], row, ~row, left | unknown)


def _unitless(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_boolean(type_) or pa.types.is_integer(type_) or pa.types.is_floating(type_)
    ) or pa.types.is_string(type_)


_DAY = 86400 * 10**9
_NANOS = {
    "io.debezium.time.Date": _DAY,
    "org.apache.kafka.connect.data.Date": _DAY,
    "io.debezium.time.Time": 10**6,
    "org.apache.kafka.connect.data.Time": 10**6,
    "io.debezium.time.MicroTime": 10**3,
    "io.debezium.time.NanoTime": 1,
    "io.debezium.time.Timestamp": 10**6,
    "org.apache.kafka.connect.data.Timestamp": 10**6,
    "io.debezium.time.MicroTimestamp": 10**3,
    "io.debezium.time.NanoTimestamp": 1,
}
"""Nanoseconds in one unit of a semantic type."""

Unit = Callable[[Any], Any]


def _semantics(schema: Any) -> dict[str, Unit]:
    """Per field of the row whose type in the envelope's schema says how to read it: that reading."""
    found: dict[str, Unit] = {}
    fields = schema.get("fields") if isinstance(schema, dict) else None
    for envelope in fields if isinstance(fields, list) else []:
        if not isinstance(envelope, dict) or envelope.get("field") not in ("before", "after"):
            continue
        inner = envelope.get("fields")
        for f in inner if isinstance(inner, list) else []:
            name = f.get("name") if isinstance(f, dict) else None
            if name in _NANOS:
                found[str(f.get("field"))] = partial(_instant, nanos=_NANOS[name])
            elif name == "org.apache.kafka.connect.data.Decimal" and isinstance(f.get("parameters"), dict):
                scale = str(f["parameters"].get("scale", "0"))
                found[str(f.get("field"))] = partial(
                    _binary_decimal, scale=int(scale) if _SCALE.fullmatch(scale) else 0
                )
    return found


_SCALE = re.compile(r"-?\d{1,3}", re.ASCII)


def _instant(value: Any, nanos: int) -> Any:
    return Instant(value * nanos, value) if type(value) is int else value


def _binary_decimal(value: Any, scale: int) -> Any:
    """Kafka Connect's decimal: base64 of a big-endian two's complement integer."""
    if type(value) is not str or len(value) > 64:
        return value
    try:
        unscaled = int.from_bytes(base64.b64decode(value, validate=True), "big", signed=True)
    except (binascii.Error, ValueError):
        return value
    return Number(format(Decimal(unscaled).scaleb(-scale, context=_WIDE), "f"))


_WIDE = Context(prec=120)


def decoder(schema: pa.Schema, options: Mapping[str, str]) -> Decoder:
    """A decoder of 'debezium-json'."""
    dialect = DebeziumDialect(read.boolean(options, SCHEMA_INCLUDE))
    return change_decoder(dialect, schema, options, rules_of(options, epochs=True))
