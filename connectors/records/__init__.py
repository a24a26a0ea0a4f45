"""Rows in keyed records, shared by the connectors that carry them (Kafka, the embedded log): formats, layout, metadata.

Options are Flink's: 'format' or 'value.format', 'key.format', 'key.fields', 'key.fields-prefix', 'value.fields-include'; a
format's own options carry its name ('json.x', 'value.json.x', 'key.json.x'). In an *upsert* table the record's key is the
primary key and a NULL value deletes it. Only columns that the plan reads are decoded; the others are NULL.
"""

from __future__ import annotations

from forebay.connectors.records.decoder import RecordDecoder, select
from forebay.connectors.records.encoder import Encoded, RecordEncoder, one_by_one
from forebay.connectors.records.layout import (
    FORMAT_METADATA,
    HEADERS,
    METADATA,
    OPTIONS,
    Layout,
    check_metadata,
    key_format,
    layout_of,
    read_fields,
    read_names,
    value_format,
    widened,
)

__all__ = [
    "FORMAT_METADATA",
    "HEADERS",
    "METADATA",
    "OPTIONS",
    "Encoded",
    "Layout",
    "RecordDecoder",
    "RecordEncoder",
    "check_metadata",
    "key_format",
    "layout_of",
    "one_by_one",
    "read_fields",
    "read_names",
    "select",
    "value_format",
    "widened",
]
