"""Rows to the messages of 'ods-json', and rows of an envelope table to the same messages."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors import options as read
from forebay.connectors.formats.envelope import check_columns
from forebay.connectors.formats.fragments import NOTHING, Template, Text, assemble, binary, passed
from forebay.connectors.formats.json_text import deletions, renderers, style_of
from forebay.connectors.formats.ods import DATABASE_NAME, EVENT_TIME, TABLE_NAME
from forebay.connectors.formats.rendering import Render, object_template, renderer
from forebay.engine.batch import Batch
from forebay.engine.connector import Encoder
from forebay.engine.errors import DataError, OptionError, nearest

_IMAGES = ("before", "after")


class OdsEncoder(Encoder):
    """Rows to messages: an insertion holds the row after, a deletion the row before."""

    def __init__(self, schema: pa.Schema, options: Mapping[str, str]) -> None:
        style = style_of(options)
        self._renderers = renderers(schema, style)
        self._row = object_template(schema.names, style)
        self._time = read.text(options, EVENT_TIME)
        if self._time is not None:
            self._render_time = renderer(_zoned(_type_of(self._time, schema)), style)
        names = (("database_name", DATABASE_NAME), ("table_name", TABLE_NAME))
        given = [(member, read.text(options, option)) for member, option in names]
        named = b"".join(b',"%b":%b' % (m.encode(), orjson.dumps(v)) for m, v in given if v is not None)
        time = [] if self._time is None else [b',"event_time":']
        inserted, deleted = named + b',"before":null,"after":', named + b',"before":'
        self._heads = Template(time, (b'{"op":"INSERT"', inserted), (b'{"op":"DELETE"', deleted))
        self._message = Template([b"", b""], (b"", b"}"), (b"", b',"after":null}'))

    def encode(self, batch: Batch) -> pa.BinaryArray:
        """See `Encoder.encode`."""
        n, deleted = batch.num_rows, deletions(batch)
        columns = [render(column) for render, column in zip(self._renderers, batch.rows.columns)]
        row = Text.of(*assemble(self._row, columns, n), NOTHING, b"{}")
        head = Text.of(*assemble(self._heads, self._event_time(batch.rows), n, deleted), NOTHING)
        return binary(*assemble(self._message, [head, row], n, deleted))

    def _event_time(self, rows: pa.RecordBatch) -> list[Text]:
        if self._time is None:
            return []
        column = rows.column(self._time)
        return [self._render_time(column.cast(_zoned(column.type)))]


def _type_of(name: str, schema: pa.Schema) -> pa.DataType:
    if name not in schema.names:
        close = nearest(name, schema.names)
        raise OptionError(
            f"option '{EVENT_TIME.name}': there is no column '{name}'",
            hint=f"did you mean '{close}'?" if close else f"columns: {', '.join(schema.names)}",
        )
    return schema.field(name).type


def _zoned(type_: pa.DataType) -> pa.DataType:
    """A TIMESTAMP is taken as UTC."""
    return pa.timestamp(type_.unit, tz="UTC") if pa.types.is_timestamp(type_) and type_.tz is None else type_


class EnvelopeEncoder(Encoder):
    """Rows of an envelope table to messages; before and after are JSON already."""

    def __init__(self, schema: pa.Schema, options: Mapping[str, str]) -> None:
        check_columns(schema, others=True)
        missing = {"op"} - set(schema.names)
        if missing or not set(_IMAGES) & set(schema.names):
            raise OptionError("an envelope that is written needs column 'op', and 'before' or 'after'")
        style = style_of(options)
        made = renderers(schema, style)
        self._renderers: list[Render] = [passed if n in _IMAGES else r for n, r in zip(schema.names, made)]
        self._images = [n for n in _IMAGES if n in schema.names]
        self._template = object_template(schema.names, style, plain=(b"{", b"}"))

    def encode(self, batch: Batch) -> pa.BinaryArray:
        """See `Encoder.encode`.

        Raises:
            DataError: a deletion, since an envelope is append-only; an image that is no JSON object.
        """
        if batch.weights is not None and (batch.weights < 0).any():
            raise DataError(
                "an envelope is append-only: a deletion cannot be written",
                hint="insert rows with op = 'DELETE', or write the rows themselves without 'ods-json.envelope'",
            )
        for name in self._images:
            _check_objects(name, batch.rows.column(name))
        columns = [render(column) for render, column in zip(self._renderers, batch.rows.columns)]
        return binary(*assemble(self._template, columns, batch.num_rows))


def _check_objects(name: str, images: pa.StringArray) -> None:
    objects = pc.match_substring_regex(images, r"(?s)^\s*\{.*\}\s*$")
    if not pc.all(objects, min_count=0).as_py():
        shown = images.filter(pc.invert(objects))[0].as_py()[:60]
        raise DataError(f"column '{name}' of an envelope must hold a JSON object, found {shown!r}")
