"""Format 'json': one JSON object per record, one row per object, under Flink's 'json.*' options.

Decoding takes both timestamp standards; the option chooses what is written. See `values` for what each type accepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from forebay.connectors import options as read
from forebay.connectors.formats.batches import (
    BatchDecoder,
    Mask,
    Part,
    Rows,
    missing_values,
    not_null_check,
    split_schema,
)
from forebay.connectors.formats.columns import chunk, finish, read_table, wire_type
from forebay.connectors.formats.values import Rules, field_converter
from forebay.engine.connector import Changelog, Option
from forebay.engine.errors import OptionError

FAIL_ON_MISSING = Option("fail-on-missing-field", "a record that lacks a field of the table is bad", "false")
IGNORE_ERRORS = Option(
    "ignore-parse-errors", "values that cannot be read are NULL, records that cannot be read are skipped", "false"
)
TIMESTAMPS = Option(
    "timestamp-format.standard",
    "how timestamps are written: '2024-01-31 12:00:00' or '2024-01-31T12:00:00'; both are read",
    "SQL",
    choices=("SQL", "ISO-8601"),
)
NULL_KEYS = Option(
    "map-null-key.mode", "what to do with a NULL key of a MAP when writing", "FAIL", choices=("FAIL", "DROP", "LITERAL")
)
NULL_KEY_LITERAL = Option("map-null-key.literal", "the key to write in mode LITERAL", "null")
PLAIN_DECIMALS = Option("encode.decimal-as-plain-number", "write 0.000001, not 1E-6", "false")
SKIP_NULLS = Option("encode.ignore-null-fields", "leave out fields that are NULL when writing", "false")
PARSER = Option("decode.json-parser.enabled", "a choice between two readers of Flink; changes nothing here", "true")
READ_OPTIONS = (FAIL_ON_MISSING, IGNORE_ERRORS, PARSER)
WRITE_OPTIONS = (TIMESTAMPS, NULL_KEYS, NULL_KEY_LITERAL, PLAIN_DECIMALS, SKIP_NULLS)
OPTIONS = (*READ_OPTIONS, *WRITE_OPTIONS)


def rules_of(options: Mapping[str, str], epochs: bool = False) -> Rules:
    """How strictly the options ask to read.

    Raises:
        OptionError: both strict and lenient.
    """
    lenient = read.boolean(options, IGNORE_ERRORS)
    strict = FAIL_ON_MISSING.name in options and read.boolean(options, FAIL_ON_MISSING)
    if lenient and strict:
        raise OptionError(
            "'fail-on-missing-field' and 'ignore-parse-errors' exclude each other", hint="set one of them"
        )
    return Rules(null_on_error=lenient, fail_on_missing=strict, epochs=epochs)


class JsonDecoder(BatchDecoder):
    """Objects to rows, append-only."""

    changelog = Changelog.APPEND

    def __init__(self, schema: pa.Schema, options: Mapping[str, str]) -> None:
        self.schema = schema
        self._rules = rules_of(options)
        self.skip_bad = self._rules.null_on_error
        split_schema(schema, {})
        self._fields = [field_converter(f, self._rules) for f in schema]
        self._check = not_null_check(schema)
        self._known = frozenset(schema.names)

    def read_columns(self, values: pa.BinaryArray, samples: Sequence[Mapping[str, Any]]) -> tuple[Part, Mask | None]:
        wire = pa.schema(
            [(f.name, wire_type(f.type, [s.get(f.name) for s in samples], self._rules)) for f in self.schema]
        )
        table = read_table(values, wire)
        columns = [finish(chunk(table.column(f.name)), f.type) for f in self.schema]
        rows, record = rows_of(columns, self.schema, len(values)), np.arange(len(values))
        closer = missing_values(rows, record, len(values))
        if self._rules.fail_on_missing:
            closer = _any_null(rows)
        if closer is not None and closer.any():
            keep = ~closer
            rows, record = rows.filter(pa.array(keep)), record[keep]
        return Part(rows, record, None), closer

    def read_document(self, document: Mapping[str, Any]) -> Rows:
        row = tuple([convert(document) for convert in self._fields])
        self._check(row)
        return [(1, row)]

    def unknown_fields(self, document: Mapping[str, Any]) -> Sequence[str]:
        return [name for name in document if name not in self._known]


def rows_of(columns: Sequence[pa.Array], schema: pa.Schema, n: int) -> pa.RecordBatch:
    """A batch of `n` rows, of no column at all too."""
    if not len(schema):
        return pa.RecordBatch.from_struct_array(pa.array([{}] * n, pa.struct([])))
    return pa.RecordBatch.from_arrays(list(columns), schema=schema)


def _any_null(rows: pa.RecordBatch) -> Mask:
    """The rows with any NULL, at any depth: their field may be absent."""
    found = np.zeros(rows.num_rows, bool)
    for column in rows.columns:
        found |= _nulls_within(column)
    return found


def _nulls_within(array: pa.Array) -> Mask:
    if pa.types.is_nested(array.type) and not pa.types.is_struct(array.type):
        return np.ones(len(array), bool)
    found: Mask = array.is_null().to_numpy(zero_copy_only=False).copy()
    if pa.types.is_struct(array.type):
        for i in range(array.type.num_fields):
            found |= _nulls_within(array.field(i))
    return found
