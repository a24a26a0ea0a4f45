"""Format 'csv': one line of separated values per record, columns by position, under Flink's 'csv.*' options.

A field equal to 'null-literal' is NULL; an empty field is NULL too, unless the column is a STRING. Elements of an ARRAY and
fields of a ROW are separated by 'array-element-delimiter'. A line with another number of fields is bad.
"""

from __future__ import annotations

import csv as lines
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from forebay.connectors import options as read
from forebay.connectors.formats.batches import (
    BatchDecoder,
    Mask,
    Part,
    Rows,
    no_rows,
    not_null_check,
    present,
    split_schema,
)
from forebay.connectors.formats.documents import Malformed
from forebay.connectors.formats.json import IGNORE_ERRORS, columns_of
from forebay.connectors.formats.separated import Splitter
from forebay.connectors.formats.shape import Slot
from forebay.connectors.formats.values import Rules, field_converter
from forebay.engine.connector import Changelog, Encoder, Option
from forebay.engine.errors import OptionError
from forebay.engine.types import from_arrow

DELIMITER = Option("field-delimiter", "separates fields; '\\t' is a tab", ",")
NO_QUOTE = Option.boolean("disable-quote-character", "quotes have no meaning")
QUOTE = Option("quote-character", "encloses fields that hold a delimiter", '"')
COMMENTS = Option.boolean("allow-comments", "lines that begin with '#' are skipped")
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


def splitter_of(schema: pa.Schema, syntax: Syntax) -> Splitter | None:
    """What splits lines into columns; None where that is left to the reference: nested columns, ambiguous characters."""
    characters = [c for c in (syntax.delimiter, syntax.quote, syntax.escape, "\n", "\r") if c is not None]
    if not len(schema) or any(pa.types.is_nested(f.type) for f in schema) or len(set(characters)) < len(characters):
        return None
    comment = "#" if syntax.comments else None
    delimiter, quote, escape, mark = (
        -1 if c is None else ord(c) for c in (syntax.delimiter, syntax.quote, syntax.escape, comment)
    )
    null = None if syntax.null is None else syntax.null.encode()
    return Splitter([f.type for f in schema], (delimiter, quote, escape, mark), null)


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
        self._rules = Rules(null_on_error=read.boolean(options, IGNORE_ERRORS))
        self.skip_bad = self._rules.null_on_error
        self._syntax = syntax_of(options)
        self._fields = [field_converter(f, self._rules) for f in schema]
        self._check = not_null_check(schema)
        self._slots = [Slot(i, f.type, 0) for i, f in enumerate(schema)]
        self._splitter = splitter_of(schema, self._syntax)

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
        if self._splitter is None:
            return no_rows(self.schema), present(values)
        return columns_of(self._splitter.scan(values), self._slots, self.schema, self._rules)

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
