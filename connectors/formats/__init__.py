"""Formats: bytes to rows and back, under Flink's names and options.

A connector passes the schema of the columns that the format carries. Fields that carry the Arrow metadata
`forebay.metadata` are metadata columns ('value.database' in SQL): the format fills them from its envelope. For a table with
a primary key it also passes 'changelog.upsert' = 'true' and 'changelog.key' = 'a;b' to formats that carry changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pyarrow as pa

from forebay.connectors.formats import canal, csv, debezium, json, maxwell, ods, ogg, raw
from forebay.engine.connector import Changelog, Encoder, Format, Registry


def register(registry: Registry) -> None:
    """Add every format."""
    registry.formats["json"] = Format("json", json.OPTIONS, json.JsonDecoder, partial(_json_encoder, "json"))
    registry.formats["csv"] = Format("csv", csv.OPTIONS, csv.CsvDecoder, csv.encoder, positional=True)
    registry.formats["raw"] = Format("raw", raw.OPTIONS, raw.RawDecoder, raw.RawEncoder)
    registry.formats |= {
        name: Format(
            name,
            module.OPTIONS,
            module.decoder,
            partial(_json_encoder, name),
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


def _json_encoder(name: str, schema: pa.Schema, options: Mapping[str, str]) -> Encoder:
    """An encoder of a JSON format; its kernels load with the first one."""
    from forebay.connectors.formats.json_text import ENVELOPES, JsonEncoder

    return JsonEncoder(schema, options, ENVELOPES[name])
