"""Rows to lines of separated values; only fields that need it are quoted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from forebay.connectors.formats.csv import Syntax, check_types, syntax_of
from forebay.connectors.formats.fragments import NOTHING, Bytes, Template, Text, assemble, binary, marks
from forebay.connectors.formats.rendering import Render, Style, lists, renderer, rewritten
from forebay.engine.batch import Batch
from forebay.engine.connector import Encoder
from forebay.kernels import strings

_STYLE = Style(quotes=b"", escapes=False)
_OF_NUMBERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-.:/=<> ")
"""What the text of a value that is no string may hold."""


class CsvEncoder(Encoder):
    """Rows to lines."""

    def __init__(self, schema: pa.Schema, options: Mapping[str, str]) -> None:
        check_types(schema)
        syntax = syntax_of(options)
        null = (syntax.null or "").encode()
        self._protect = _Protection(syntax)
        self._renderers = [_field(column.type, syntax.elements.encode(), null) for column in schema]
        self._checked = [
            pa.types.is_nested(c.type) or pa.types.is_string(c.type) or self._protect.numbers for c in schema
        ]
        self._template = Template([syntax.delimiter.encode()] * len(schema), null=null, drop=1)

    def encode(self, batch: Batch) -> pa.BinaryArray:
        """See `Encoder.encode`."""
        columns = [render(column) for render, column in zip(self._renderers, batch.rows.columns)]
        columns = [self._protect(text) if checked else text for text, checked in zip(columns, self._checked)]
        return binary(*assemble(self._template, columns, batch.num_rows))


class _Protection:
    """Quotes and escapes for the fields that need them."""

    def __init__(self, syntax: Syntax) -> None:
        quote, escape, delimiter = syntax.quote, syntax.escape, syntax.delimiter
        special = [delimiter, "\n", "\r", *[c for c in (quote, escape) if c]]
        self._special: Bytes = np.zeros(256, np.uint8)
        self._special[[ord(c) for c in special]] = 1
        self._before: Bytes = np.zeros(256, np.uint8)
        if escape is not None:
            self._before[[ord(escape), ord(quote or delimiter)]] = ord(escape)
        elif quote is not None:
            self._before[ord(quote)] = ord(quote)
        self._quote = NOTHING if quote is None else np.array([ord(quote)], np.uint8)
        self.numbers = not _OF_NUMBERS.isdisjoint(special)
        """Whether values that are no strings may need them."""

    def __call__(self, text: Text) -> Text:
        if not strings.special_fields(text.data, text.starts, text.ends, self._special):
            return text
        size = 2 * (text.nbytes + len(text.starts))
        return rewritten(strings.protect, text, size, self._special, self._before, self._quote)


def _field(type_: pa.DataType, separator: bytes, null: bytes) -> Render:
    if pa.types.is_list(type_):
        return lists(renderer(type_.value_type, _STYLE), separator, null, b"")
    if not pa.types.is_struct(type_):
        return renderer(type_, _STYLE)
    renders = [renderer(field.type, _STYLE) for field in type_]
    template = Template([separator] * len(renders), null=null, drop=len(separator))

    def render(array: pa.StructArray) -> Text:
        columns = [render(array.field(i)) for i, render in enumerate(renders)]
        return Text.of(*assemble(template, columns, len(array)), marks(array))

    return render
