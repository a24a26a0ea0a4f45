"""Format 'csv': one line of separated values per record, columns by position, under Flink's 'csv.*' options.

A field equal to 'null-literal' is NULL; an empty field is NULL too, unless the column is a STRING. Elements of an ARRAY and
fields of a ROW are separated by 'array-element-delimiter'. A line with another number of fields is bad.
"""

from __future__ import annotations

import csv as lines
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from forebay.connectors import options as read
from forebay.connectors.formats.batches import (
    BatchDecoder,
    Mask,
    Part,
    Rows,
    missing_values,
    no_rows,
    not_null_check,
    settled,
    split_schema,
)
from forebay.connectors.formats.columns import Inexact, chunk, finish
from forebay.connectors.formats.documents import Malformed
from forebay.connectors.formats.json import IGNORE_ERRORS
from forebay.connectors.formats.values import Rules, field_converter
from forebay.engine.connector import Changelog, Encoder, Option
from forebay.engine.errors import OptionError
from forebay.engine.types import from_arrow

DELIMITER = Option("field-delimiter", "separates fields; '\\t' is a tab", ",")
NO_QUOTE = Option("disable-quote-character", "quotes have no meaning", "false")
QUOTE = Option("quote-character", "encloses fields that hold a delimiter", '"')
COMMENTS = Option("allow-comments", "lines that begin with '#' are skipped", "false")
ELEMENTS = Option("array-element-delimiter", "separates elements of an array", ";")
ESCAPE = Option("escape-character", "takes the next character literally")
NULL = Option("null-literal", "text that stands for NULL")
OPTIONS = (DELIMITER, NO_QUOTE, QUOTE, COMMENTS, IGNORE_ERRORS, ELEMENTS, ESCAPE, NULL)


@dataclass(frozen=True, slots=True)
class Syntax:
    """The characters of a CSV dialect."""

    delimiter: str
    quote: str | None
    escape: str | None
    elements: str
    null: str | None
    comments: bool


def syntax_of(options: Mapping[str, str]) -> Syntax:
    """The characters that the options choose.

    Raises:
        OptionError: a delimiter, quote or escape of more than one character.
    """
    quoted = not read.boolean(options, NO_QUOTE)
    return Syntax(
        delimiter=_character(options, DELIMITER) or ",",
        quote=_character(options, QUOTE) if quoted else None,
        escape=_character(options, ESCAPE),
        elements=read.required(options, ELEMENTS),
        null=read.text(options, NULL),
        comments=read.boolean(options, COMMENTS),
    )


def _character(options: Mapping[str, str], option: Option) -> str | None:
    text = read.text(options, option)
    if text is None:
        return None
    text = {"\\t": "\t", "\\u0001": "\x01"}.get(text, text)
    if len(text) != 1 or not text.isascii():
        raise read.bad_value(option, text, "one ASCII character")
    return text


def check_types(schema: pa.Schema) -> None:
    """Refuse types without a CSV form.

    Raises:
        OptionError: a column that is nested more than once, or a MAP.
    """
    for column in schema:
        inner = column.type.value_type if pa.types.is_list(column.type) else column.type
        fields = [f.type for f in inner] if pa.types.is_struct(inner) and inner is column.type else [inner]
        if any(pa.types.is_nested(t) for t in fields):
            raise OptionError(
                f"column '{column.name}' of type {from_arrow(column.type)} has no CSV form", hint="use json"
            )


class CsvDecoder(BatchDecoder):
    """Lines to rows, append-only."""

    changelog = Changelog.APPEND

    def __init__(self, schema: pa.Schema, options: Mapping[str, str]) -> None:
        self.schema = schema
        split_schema(schema, {})
        check_types(schema)
        rules = Rules(null_on_error=read.boolean(options, IGNORE_ERRORS))
        self.skip_bad = rules.null_on_error
        self._syntax = syntax_of(options)
        self._fields = [field_converter(f, rules) for f in schema]
        self._check = not_null_check(schema)
        self._flat = not any(pa.types.is_nested(f.type) for f in schema) and len(schema) > 0

    def parse(self, value: bytes) -> Mapping[str, Any] | None:
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"invalid UTF-8 at byte {error.start}") from None
        if self._syntax.comments and text.startswith("#"):
            return None
        fields = self._split(text)
        if len(fields) != len(self.schema) and not self.skip_bad:
            raise Malformed(f"expected {len(self.schema)} fields, found {len(fields)}")
        return {f.name: self._meaning(t, f.type) for f, t in zip(self.schema, fields)}

    def _split(self, text: str) -> list[str]:
        syntax = self._syntax
        if syntax.quote is None and syntax.escape is None:
            line = text.removesuffix("\n").removesuffix("\r")
            if "\n" in line or "\r" in line:
                raise Malformed("more than one line")
            return line.split(syntax.delimiter)
        try:
            found = list(
                lines.reader(
                    [text],
                    delimiter=syntax.delimiter,
                    quotechar=syntax.quote,
                    escapechar=syntax.escape,
                    quoting=lines.QUOTE_MINIMAL if syntax.quote else lines.QUOTE_NONE,
                    strict=True,
                )
            )
        except lines.Error as error:
            raise Malformed(f"invalid CSV: {error}") from None
        if len(found) != 1:
            raise Malformed("more than one line")
        return found[0] or [""]

    def _meaning(self, text: str, type_: pa.DataType) -> Any:
        if text == self._syntax.null or (not text and not pa.types.is_string(type_)):
            return None
        if pa.types.is_list(type_):
            return [self._meaning(t, type_.value_type) for t in text.split(self._syntax.elements)]
        if pa.types.is_struct(type_):
            parts = text.split(self._syntax.elements)
            return {f.name: self._meaning(t, f.type) for f, t in zip(type_, parts)}
        return text

    def read_columns(self, values: pa.BinaryArray) -> tuple[Part, Mask]:
        present = values.is_valid().to_numpy(zero_copy_only=False)
        plain = present & self._plain(values)
        record = np.flatnonzero(plain)
        try:
            table = self._read(values.filter(pa.array(plain)))
            columns = [finish(self._without_nulls(table, f), f.type) for f in self.schema]
        except Inexact:
            return no_rows(self.schema), present
        rows, left = pa.RecordBatch.from_arrays(columns, schema=self.schema), present & ~plain
        empty = missing_values(rows, record, len(values))
        if empty is not None:
            left |= empty
        return settled(rows, record, None, left), left

    def _plain(self, values: pa.BinaryArray) -> Mask:
        """The lines without anything that needs a closer look."""
        special = [c for c in ("\n", "\r", self._syntax.quote, self._syntax.escape) if c is not None]
        if self._syntax.comments:
            special.append("#")
        plain: Mask = (pc.binary_length(values).fill_null(0).to_numpy() > 0) & self._flat
        for character in special:
            found = pc.fill_null(pc.match_substring(values, character), False)
            plain &= ~found.to_numpy(zero_copy_only=False)
        return plain

    def _read(self, values: pa.BinaryArray) -> pa.Table:
        joined = b"\n".join(values.to_pylist())
        names = self.schema.names
        try:
            table = pacsv.read_csv(
                pa.BufferReader(joined),
                pacsv.ReadOptions(use_threads=False, block_size=len(joined) + 1, column_names=names),
                pacsv.ParseOptions(delimiter=self._syntax.delimiter, quote_char=False, ignore_empty_lines=False),
                pacsv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, null_values=[]
                ),
            )
        except (pa.ArrowException, ValueError):
            raise Inexact from None
        if table.num_rows != len(values):
            raise Inexact
        return table

    def _without_nulls(self, table: pa.Table, column: pa.Field) -> pa.Array:
        text = chunk(table.column(column.name))
        meanings = [] if self._syntax.null is None else [self._syntax.null]
        if not pa.types.is_string(column.type):
            meanings.append("")
        for meaning in meanings:
            text = pc.if_else(pc.equal(text, pa.scalar(meaning)), pa.scalar(None, pa.string()), text)
        return text

    def read_document(self, document: Mapping[str, Any]) -> Rows:
        row = tuple([convert(document) for convert in self._fields])
        self._check(row)
        return [(1, row)]

    def unknown_fields(self, document: Mapping[str, Any]) -> Sequence[str]:
        return ()


def encoder(schema: pa.Schema, options: Mapping[str, str]) -> Encoder:
    """An encoder of 'csv'; its kernels load with the first one."""
    from forebay.connectors.formats.csv_text import CsvEncoder

    return CsvEncoder(schema, options)
