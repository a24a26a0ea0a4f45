"""Format 'canal-json': {data: [rows], old: [changed fields], type, database, table, isDdl, sql, es, ts, pkNames, sqlType}.

One record holds many rows. `old` holds the former values of changed fields only: a field absent from it did not change, a
null in it means that the value was NULL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

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
    Ops,
    Reading,
    epoch_millis,
    op_codes,
    text_at,
)
from forebay.connectors.formats.documents import Malformed, kind
from forebay.connectors.formats.envelope import ENVELOPE, change_decoder
from forebay.connectors.formats.fetch import Fetch
from forebay.connectors.formats.json import IGNORE_ERRORS, WRITE_OPTIONS, rules_of
from forebay.connectors.formats.shape import ESCAPED, LIST, LONGEST, OBJECT, TRUE, Scan, Slot
from forebay.connectors.formats.values import Rules
from forebay.engine.connector import Decoder, Option
from forebay.engine.errors import OptionError
from forebay.engine.optionkinds import Kind

DATABASES = Option(
    "database.include", "only changes of databases whose whole name matches this regular expression", kind=Kind.PATTERN
)
TABLES = Option(
    "table.include", "only changes of tables whose whole name matches this regular expression", kind=Kind.PATTERN
)
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
    members: Mapping[str, tuple[tuple[str, ...], Reading]] = {
        "database": (("database",), Reading.TEXT),
        "table": (("table",), Reading.TEXT),
        "ingestion-timestamp": (("ts",), Reading.MILLIS),
        "event-timestamp": (("es",), Reading.MILLIS),
    }
    before_hint = "MySQL sends it with binlog_row_image = FULL"

    def __init__(self, databases: re.Pattern[str] | None = None, tables: re.Pattern[str] | None = None) -> None:
        self._filters = [(name, f) for name, f in (("database", databases), ("table", tables)) if f is not None]

    def interpret(self, document: Mapping[str, Any]) -> Event:
        database, table, op = text_at(document, "database"), text_at(document, "table"), document.get("type")
        for name, pattern in self._filters:
            if not pattern.fullmatch(text_at(document, name) or ""):
                return Event()
        if document.get("isDdl") is True or (isinstance(op, str) and op in _STATEMENTS):
            return Event(statement=Statement(database, table, text_at(document, "sql") or str(op)))
        if not isinstance(op, str) or op not in _OPS:
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

    def wanted(self, row: pa.DataType) -> dict[str, Any]:
        filters = {name: pa.string() for name, _ in self._filters}
        return {"data": pa.list_(row), "old": pa.list_(row), "type": pa.string(), "isDdl": pa.bool_(), **filters}

    def columns(self, scan: Scan, root: Slot) -> Columns:
        op, left = op_codes(scan, root["type"], _OPS)
        left |= scan.kinds(root["isDdl"]) == TRUE
        op, left = filtered(scan, root, self._filters, op, left)
        data, old = scan.spans(root["data"]), scan.spans(root["old"])
        update = op == UPDATE
        left |= (op != NOTHING) & ((data & 15 != LIST) | (_count(data) == 0))
        left |= update & ((old & 15 != LIST) | (_count(old) != _count(data)))
        live = (op != NOTHING) & ~left
        counts = np.where(live, _count(data), 0)
        row = np.repeat(np.arange(len(op)), counts)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        at, former = (data >> 32)[row] + nth, ~((old >> 32)[row] + nth)
        image, twin = root["data"].element, root["old"].element
        assert image is not None and twin is not None
        op = op[row]
        was = np.flatnonzero(op == UPDATE)
        odd = was[scan.kinds(twin)[~former[was]] != OBJECT]
        left[row[odd]] = True
        return Columns(row, op, image, twin, at, at, left, np.where(op == UPDATE, former, 0))


def _count(lists: Indices) -> Indices:
    """The numbers of elements of wanted arrays."""
    return lists >> 4 & LONGEST


def filtered(
    scan: Scan, root: Slot, filters: Sequence[tuple[str, re.Pattern[str]]], op: Ops, left: Mask
) -> tuple[Ops, Mask]:
    """Operations and marks of records without what the filters drop."""
    for name, pattern in filters:
        bad = np.zeros(len(op), np.uint8)
        keep = matching(Fetch(scan, Rules()).column(root[name], bad), pattern)
        kinds = scan.kinds(root[name])
        odd = (bad > 0) | (kinds > ESCAPED)
        op, left = np.where(keep | odd, op, NOTHING).astype(np.int8), (left & keep) | odd
    return op, left


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
