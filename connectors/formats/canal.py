"""Format 'canal-json': {data: [rows], old: [changed fields], type, database, table, isDdl, sql, es, ts, pkNames, sqlType}.

One record holds many rows. `old` holds the former values of changed fields only: a field absent from it did not change, a
null in it means that the value was NULL. The columnar reader cannot tell the two apart, so records whose text has a `null`
behind `"old"` are left to the reference; all others are exact in columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors.formats.batches import Indices, Mask, Statement
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
    epoch_millis,
    op_codes,
    text_at,
)
from forebay.connectors.formats.columns import Inexact, chunk
from forebay.connectors.formats.documents import Malformed, kind
from forebay.connectors.formats.envelope import ENVELOPE, change_decoder
from forebay.connectors.formats.json import IGNORE_ERRORS, WRITE_OPTIONS, rules_of
from forebay.connectors.formats.overlay import null_behind_old, overlay
from forebay.engine.connector import Decoder, Option
from forebay.engine.errors import OptionError

DATABASES = Option("database.include", "only changes of databases whose whole name matches this regular expression")
TABLES = Option("table.include", "only changes of tables whose whole name matches this regular expression")
OPTIONS = (DATABASES, TABLES, ENVELOPE, IGNORE_ERRORS, *WRITE_OPTIONS)

_MILLIS = pa.timestamp("ms", tz="UTC")
_OPS = {"INSERT": INSERT, "UPDATE": UPDATE, "DELETE": DELETE}
_STATEMENTS = frozenset(
    ("CREATE", "ALTER", "ERASE", "QUERY", "TRUNCATE", "RENAME", "CINDEX", "DINDEX", "GTID", "XACOMMIT", "XAROLLBACK")
)
_WIRE_METADATA = {"database": "database", "table": "table", "ingestion-timestamp": "ts", "event-timestamp": "es"}
METADATA: Mapping[str, pa.DataType] = {
    "database": pa.string(),
    "table": pa.string(),
    "sql-type": pa.map_(pa.string(), pa.int32()),
    "pk-names": pa.list_(pa.string()),
    "ingestion-timestamp": _MILLIS,
    "event-timestamp": _MILLIS,
}


class CanalDialect(Dialect):
    """Canal's flat message."""

    name = "canal-json"
    metadata = METADATA
    before_hint = "MySQL sends it with binlog_row_image = FULL"

    def __init__(self, databases: re.Pattern[str] | None = None, tables: re.Pattern[str] | None = None) -> None:
        self._filters = [(name, f) for name, f in (("database", databases), ("table", tables)) if f is not None]

    def interpret(self, document: Mapping[str, Any]) -> Event:
        database, table, op = text_at(document, "database"), text_at(document, "table"), document.get("type")
        for name, pattern in self._filters:
            if not pattern.fullmatch(text_at(document, name) or ""):
                return Event()
        if document.get("isDdl") is True or (op in _STATEMENTS and op not in _OPS):
            return Event(statement=Statement(database, table, text_at(document, "sql") or str(op)))
        if op not in _OPS:
            shown = repr(op[:20]) if isinstance(op, str) else kind(op)
            raise Malformed(f"'type' must be INSERT, UPDATE or DELETE, found {shown}" if op else "'type' is missing")
        data, old = _images(document, "data"), _images(document, "old") if op == "UPDATE" else []
        if op == "UPDATE" and len(old) != len(data):
            raise Malformed(f"'data' has {len(data)} rows, but 'old' has {len(old)}")
        if op == "UPDATE":
            changes = [Change(UPDATE, {**d, **o}, d) for d, o in zip(data, old)]
        else:
            changes = [Change(INSERT, None, d) if op == "INSERT" else Change(DELETE, d, None) for d in data]
        return Event(changes, None, database, table, document.get("es", document.get("ts")))

    def value(self, key: str, document: Mapping[str, Any]) -> Any:
        member = {"sql-type": "sqlType", "pk-names": "pkNames"}.get(key) or _WIRE_METADATA[key]
        return epoch_millis(document.get(member)) if member in ("ts", "es") else document.get(member)

    def position(self, document: Mapping[str, Any]) -> Any:
        gtid = text_at(document, "gtid")
        return gtid or document.get("id")

    def samples(self, document: Mapping[str, Any]) -> Sequence[Image]:
        rows = [document.get("data"), document.get("old")]
        return [image for r in rows if isinstance(r, list) for image in r[:4] if isinstance(image, dict)]

    def wire(self, row: pa.DataType) -> pa.Schema:
        fields = [("data", pa.list_(row)), ("old", pa.list_(row)), ("type", pa.string()), ("isDdl", pa.bool_())]
        return pa.schema([*fields, *[(name, pa.string()) for name, _ in self._filters]])

    def wire_metadata(self, keys: Sequence[str]) -> pa.Schema:
        if {"sql-type", "pk-names"} & set(keys):
            raise Inexact
        return pa.schema(
            [
                (_WIRE_METADATA[k], pa.string() if k in ("database", "table") else pa.int64())
                for k in dict.fromkeys(keys)
            ]
        )

    def metadata_column(self, key: str, table: pa.Table) -> pa.Array:
        return chunk(table.column(_WIRE_METADATA[key])).cast(self.metadata[key])

    def columns(self, table: pa.Table, values: pa.BinaryArray) -> Columns:
        op, closer = op_codes(chunk(table.column("type")), _OPS)
        closer |= chunk(table.column("isDdl")).fill_null(False).to_numpy(zero_copy_only=False)
        for name, pattern in self._filters:
            dropped = ~matching(chunk(table.column(name)), pattern)
            op, closer = np.where(dropped, NOTHING, op).astype(np.int8), closer & ~dropped
        data, old = chunk(table.column("data")), chunk(table.column("old"))
        rows, olds = _lengths(data), _lengths(old)
        closer |= ((op != NOTHING) & (rows == 0)) | ((op == UPDATE) & (rows != olds))
        closer |= (op == UPDATE) & null_behind_old(values, op == UPDATE)
        live = (op != NOTHING) & ~closer
        record = np.repeat(np.arange(len(values)), np.where(live, rows, 0))
        after = data.filter(pa.array(live)).flatten()
        before = overlay(after, old.filter(pa.array(live & (op == UPDATE))).flatten(), op[record])
        return Columns(record, op[record], before, after, closer)


def _images(document: Mapping[str, Any], name: str) -> Sequence[Image]:
    rows = document.get(name)
    if not isinstance(rows, list):
        raise Malformed(f"'{name}' must be an array of rows, found {kind(rows)}")
    if not rows:
        raise Malformed(f"'{name}' has no row")
    for row in rows:
        if not isinstance(row, dict):
            raise Malformed(f"a row of '{name}' must be an object, found {kind(row)}")
    return rows


def matching(names: pa.Array, pattern: re.Pattern[str]) -> Mask:
    """The names that match as a whole; NULL counts as the empty name."""
    coded = names.dictionary_encode()
    verdict = [pattern.fullmatch(n) is not None for n in coded.dictionary.to_pylist()]
    table = np.array([*verdict, pattern.fullmatch("") is not None])
    matching: Mask = table[coded.indices.fill_null(len(verdict)).to_numpy()]
    return matching


def _lengths(lists: pa.ListArray) -> Indices:
    lengths: Indices = pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)
    return lengths


def decoder(schema: pa.Schema, options: Mapping[str, str]) -> Decoder:
    """A decoder of 'canal-json'.

    Raises:
        OptionError: a filter is no regular expression.
    """
    dialect = CanalDialect(pattern_of(options, DATABASES), pattern_of(options, TABLES))
    return change_decoder(dialect, schema, options, rules_of(options))


def pattern_of(options: Mapping[str, str], option: Option) -> re.Pattern[str] | None:
    """The regular expression of an option, if given.

    Raises:
        OptionError: it is none.
    """
    text = options.get(option.name)
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise OptionError(f"option '{option.name}' is no regular expression: {text}", detail=str(error)) from None
