"""Format 'ogg-json', Oracle GoldenGate: {table: "DB.TABLE", op_type: I | U | D | T, op_ts, current_ts, before, after}.

Times in the envelope have no zone and are taken as UTC. 'T' (truncate) is a statement.
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
from forebay.connectors.formats.documents import Malformed, kind
from forebay.connectors.formats.envelope import ENVELOPE, change_decoder
from forebay.connectors.formats.json import IGNORE_ERRORS, WRITE_OPTIONS, rules_of
from forebay.connectors.formats.shape import Scan, Slot
from forebay.engine.connector import Decoder

OPTIONS = (ENVELOPE, IGNORE_ERRORS, *WRITE_OPTIONS)

_MICROS = pa.timestamp("us", tz="UTC")
_OPS = {"I": INSERT, "U": UPDATE, "D": DELETE}
_TIMES = {"ingestion-timestamp": "current_ts", "event-timestamp": "op_ts"}

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
    members: Mapping[str, tuple[tuple[str, ...], Reading]] = {
        "table": (("table",), Reading.TEXT),
        **{key: ((name,), Reading.UTC) for key, name in _TIMES.items()},
    }
    before_hint = "GoldenGate sends it with LOGALLSUPCOLS and GETUPDATEBEFORES"

    def interpret(self, document: Mapping[str, Any]) -> Event:
        database, _, table = (text_at(document, "table") or "").rpartition(".")
        op, time = document.get("op_type"), self.value("event-timestamp", document)
        if op == "T":
            return Event(statement=Statement(database or None, table, f"TRUNCATE TABLE {table}".rstrip()))
        if not isinstance(op, str) or op not in _OPS:
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

    def wanted(self, row: pa.DataType) -> dict[str, Any]:
        return {"before": row, "after": row, "op_type": pa.string()}

    def columns(self, scan: Scan, root: Slot) -> Columns:
        op, unknown = op_codes(scan, root["op_type"], _OPS)
        row = np.arange(len(op))
        return Columns(row, op, root["before"], root["after"], row, ~row, unknown)


def decoder(schema: pa.Schema, options: Mapping[str, str]) -> Decoder:
    """A decoder of 'ogg-json'."""
    return change_decoder(OggDialect(), schema, options, rules_of(options))
