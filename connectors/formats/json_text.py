"""Rows to JSON objects, and to the messages of the change formats: a head and a tail around the object of the row.

Imported when an encoder is made: what only reads does not load the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from forebay.connectors import options as read
from forebay.connectors.formats.fragments import NOTHING, Bytes, Frame, assemble, binary
from forebay.connectors.formats.json import PLAIN_DECIMALS, SKIP_NULLS, TIMESTAMPS
from forebay.connectors.formats.rendering import Render, Style, object_template, renderer
from forebay.engine.batch import Batch
from forebay.engine.connector import Encoder
from forebay.engine.errors import OptionError
from forebay.engine.types import from_arrow


def style_of(options: Mapping[str, str]) -> Style:
    """The style that a JSON format's options ask for."""
    return Style(
        iso=options.get(TIMESTAMPS.name) == "ISO-8601",
        plain_decimals=read.boolean(options, PLAIN_DECIMALS),
        skip_nulls=read.boolean(options, SKIP_NULLS),
    )


def renderers(schema: pa.Schema, style: Style) -> list[Render]:
    """What renders each column.

    Raises:
        OptionError: a column of a type that has no JSON form.
    """
    for column in schema:
        _check_writable(column.type)
    return [renderer(column.type, style) for column in schema]


def _check_writable(type_: pa.DataType) -> None:
    if pa.types.is_interval(type_) or pa.types.is_duration(type_):
        raise OptionError(f"a column of type {from_arrow(type_)} has no JSON form", hint="cast it to STRING")
    if pa.types.is_map(type_) and not pa.types.is_string(type_.key_type):
        raise OptionError("a MAP in JSON needs STRING keys", hint="declare it MAP<STRING, ...>")
    for i in range(type_.num_fields):
        _check_writable(type_.field(i).type)


@dataclass(frozen=True, slots=True)
class Envelope:
    """The text before and behind the row of an insertion and of a deletion."""

    insert: Frame
    delete: Frame


ROW = Envelope((b"", b""), (b"", b""))
"""The row itself."""
ENVELOPES: Mapping[str, Envelope] = {
    "json": ROW,
    "debezium-json": Envelope((b'{"before":null,"after":', b',"op":"c"}'), (b'{"before":', b',"after":null,"op":"d"}')),
    "canal-json": Envelope((b'{"data":[', b'],"type":"INSERT"}'), (b'{"data":[', b'],"type":"DELETE"}')),
    "maxwell-json": Envelope((b'{"data":', b',"type":"insert"}'), (b'{"data":', b',"type":"delete"}')),
    "ogg-json": Envelope(
        (b'{"before":null,"after":', b',"op_type":"I"}'), (b'{"before":', b',"after":null,"op_type":"D"}')
    ),
}
"""What Flink writes for an insertion and for a deletion; an update is a deletion and an insertion."""


class JsonEncoder(Encoder):
    """Rows to objects, or to the messages that an envelope makes of them."""

    def __init__(self, schema: pa.Schema, options: Mapping[str, str], envelope: Envelope = ROW) -> None:
        if options.get("envelope") == "true":
            raise OptionError("an envelope of this format can only be read", hint="write it with format 'ods-json'")
        style = style_of(options)
        self._renderers = renderers(schema, style)
        self._template = object_template(
            schema.names, style, plain=_around(envelope.insert), marked=_around(envelope.delete)
        )

    def encode(self, batch: Batch) -> pa.BinaryArray:
        """See `Encoder.encode`."""
        columns = [render(column) for render, column in zip(self._renderers, batch.rows.columns)]
        return binary(*assemble(self._template, columns, batch.num_rows, deletions(batch)))


def _around(frame: Frame) -> Frame:
    return frame[0] + b"{", b"}" + frame[1]


def deletions(batch: Batch) -> Bytes:
    """1 where the row is deleted; empty if all are inserted."""
    if batch.weights is None:
        return NOTHING
    deleted: Bytes = np.less(batch.weights, 0).view(np.uint8)
    return deleted
