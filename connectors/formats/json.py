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
    settled,
    split_schema,
)
from forebay.connectors.formats.fetch import Fetch
from forebay.connectors.formats.shape import Scan, Shape, Slot
from forebay.connectors.formats.values import Rules, field_converter
from forebay.engine.connector import Changelog, Option
from forebay.engine.errors import OptionError

FAIL_ON_MISSING = Option.boolean("fail-on-missing-field", "a record that lacks a field of the table is bad")
IGNORE_ERRORS = Option.boolean(
    "ignore-parse-errors", "values that cannot be read are NULL, records that cannot be read are skipped"
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
PLAIN_DECIMALS = Option.boolean("encode.decimal-as-plain-number", "write 0.000001, not 1E-6")
SKIP_NULLS = Option.boolean("encode.ignore-null-fields", "leave out fields that are NULL when writing")
PARSER = Option.boolean(
    "decode.json-parser.enabled", "a choice between two readers of Flink; changes nothing here", "true"
)
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
        self._shape = Shape(pa.struct(list(schema)))

    def read_columns(self, values: pa.BinaryArray) -> tuple[Part, Mask]:
        root, scan = self._shape.root, self._shape.scan(values)
        made = columns_of(scan, [root[f.name] for f in self.schema], self.schema, self._rules)
        self._shape.release(scan)
        return made

    def learn(self, document: Mapping[str, Any]) -> None:
        self._shape.learn(document)

    def read_document(self, document: Mapping[str, Any]) -> Rows:
        row = tuple([convert(document) for convert in self._fields])
        self._check(row)
        return [(1, row)]

    def unknown_fields(self, document: Mapping[str, Any]) -> Sequence[str]:
        return [name for name in document if name not in self._known]


def columns_of(scan: Scan, slots: Sequence[Slot], schema: pa.Schema, rules: Rules) -> tuple[Part, Mask]:
    """One row per record that was scanned, a slot per column; see `BatchDecoder.read_columns`."""
    bad = np.zeros(len(scan.record), np.uint8)
    fetch = Fetch(scan, rules)
    rows = rows_of([fetch.column(slot, bad) for slot in slots], schema, len(bad))
    left = scan.left()
    left[scan.record[bad > 0]] = True
    empty = missing_values(rows, scan.record, len(left))
    if empty is not None:
        left |= empty
    return settled(rows, scan.record, None, left), left


def rows_of(columns: Sequence[pa.Array], schema: pa.Schema, n: int) -> pa.RecordBatch:
    """A batch of `n` rows, of no column at all too."""
    if not len(schema):
        return pa.RecordBatch.from_struct_array(pa.array([{}] * n, pa.struct([])))
    return pa.RecordBatch.from_arrays(list(columns), schema=schema)
