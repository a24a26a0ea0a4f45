"""Formats: bytes to rows and back, under Flink's names and options.

A connector passes the schema of the columns that the format carries. Fields that carry the Arrow metadata
`forebay.metadata` are metadata columns ('value.database' in SQL): the format fills them from its envelope. For a table with
a primary key it also passes 'changelog.upsert' = 'true' and 'changelog.key' = 'a;b' to formats that carry changes.
"""

from __future__ import annotations

from functools import partial

from forebay.connectors.formats import canal, csv, debezium, json, maxwell, ods, ogg, raw
from forebay.connectors.formats.json_text import ENVELOPES, JsonEncoder
from forebay.engine.connector import Changelog, Format, Registry


def register(registry: Registry) -> None:
    """Add every format."""
    registry.formats["json"] = Format("json", json.OPTIONS, json.JsonDecoder, JsonEncoder)
    registry.formats["csv"] = Format("csv", csv.OPTIONS, csv.CsvDecoder, csv.CsvEncoder, positional=True)
    registry.formats["raw"] = Format("raw", raw.OPTIONS, raw.RawDecoder, raw.RawEncoder)
    registry.formats |= {
        name: Format(
            name,
            module.OPTIONS,
            module.decoder,
            partial(JsonEncoder, envelope=ENVELOPES[name]),
            Changelog.RETRACT,
            module.METADATA,
        )
        for name, module in (
            ("debezium-json", debezium),
            ("canal-json", canal),
            ("maxwell-json", maxwell),
            ("ogg-json", ogg),
        )
    }
    registry.formats["ods-json"] = Format(
        "ods-json", ods.OPTIONS, ods.decoder, ods.encoder, Changelog.RETRACT, ods.METADATA
    )
