"""Format 'ogg-json', Oracle GoldenGate: {table: "DB.TABLE", op_type: I | U | D | T, op_ts, current_ts, before, after}.

Times in the envelope have no zone and are taken as UTC. 'T' (truncate) is a statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    image_of,
    op_codes,
    text_at,
)
from forebay.connectors.formats.columns import Inexact, chunk
from forebay.connectors.formats.documents import Malformed, kind
from forebay.connectors.formats.envelope import ENVELOPE, change_decoder
from forebay.connectors.formats.json import IGNORE_ERRORS, WRITE_OPTIONS, rules_of
from forebay.engine.connector import Decoder

OPTIONS = (ENVELOPE, IGNORE_ERRORS, *WRITE_OPTIONS)

_MICROS = pa.timestamp("us", tz="UTC")
_OPS = {"I": INSERT, "U": UPDATE, "D": DELETE}
_TIMES = {"ingestion-timestamp": "current_ts", "event-timestamp": "op_ts"}
_UTC = pa.scalar("Z")
_NO_TEXT = pa.scalar("")

METADATA: Mapping[str, pa.DataType] = {
    "table": pa.string(),
    "primary-keys": pa.list_(pa.string()),
    "ingestion-timestamp": _MICROS,
    "event-timestamp": _MICROS,
}


class OggDialect(Dialect):
    """Oracle GoldenGate's JSON."""

    name = "ogg-json"
    metadata = METADATA
    before_hint = "GoldenGate sends it with LOGALLSUPCOLS and GETUPDATEBEFORES"

    def interpret(self, document: Mapping[str, Any]) -> Event:
        database, _, table = (text_at(document, "table") or "").rpartition(".")
        op, time = document.get("op_type"), self.value("event-timestamp", document)
        if op == "T":
            return Event(statement=Statement(database or None, table, f"TRUNCATE TABLE {table}".rstrip()))
        if op not in _OPS:
            shown = repr(op[:20]) if isinstance(op, str) else kind(op)
            raise Malformed(f"'op_type' must be I, U or D, found {shown}" if op else "'op_type' is missing")
        before, after = image_of(document.get("before"), "before"), image_of(document.get("after"), "after")
        return Event((Change(_OPS[op], before, after),), None, database or None, table, time)

    def value(self, key: str, document: Mapping[str, Any]) -> Any:
        if key in _TIMES:
            text = text_at(document, _TIMES[key])
            return None if text is None else f"{text}Z"
        return document.get("primary_keys" if key == "primary-keys" else key)

    def position(self, document: Mapping[str, Any]) -> Any:
        return document.get("pos")

    def samples(self, document: Mapping[str, Any]) -> Sequence[Image]:
        return [i for i in (document.get("after"), document.get("before")) if isinstance(i, dict)]

    def wire(self, row: pa.DataType) -> pa.Schema:
        return pa.schema([("before", row), ("after", row), ("op_type", pa.string())])

    def wire_metadata(self, keys: Sequence[str]) -> pa.Schema:
        if "primary-keys" in keys:
            raise Inexact
        return pa.schema([(_TIMES.get(k, k), pa.string()) for k in dict.fromkeys(keys)])

    def metadata_column(self, key: str, table: pa.Table) -> pa.Array:
        if key == "table":
            return chunk(table.column("table"))
        text = pc.binary_join_element_wise(chunk(table.column(_TIMES[key])), _UTC, _NO_TEXT)
        try:
            return text.cast(_MICROS)
        except pa.ArrowInvalid:
            raise Inexact from None

    def columns(self, table: pa.Table, values: pa.BinaryArray) -> Columns:
        op, closer = op_codes(chunk(table.column("op_type")), _OPS)
        return Columns(np.arange(len(values)), op, chunk(table.column("before")), chunk(table.column("after")), closer)


def decoder(schema: pa.Schema, options: Mapping[str, str]) -> Decoder:
    """A decoder of 'ogg-json'."""
    return change_decoder(OggDialect(), schema, options, rules_of(options))
