"""Formats: bytes to rows and back, under Flink's names and options."""

from __future__ import annotations

from forebay.connectors.formats import canal, debezium, json
from forebay.engine.connector import Changelog, Format, Registry


def register(registry: Registry) -> None:
    """Add every format."""
    for format_ in (
        Format("json", json.OPTIONS, json.JsonDecoder),
        Format(
            "debezium-json",
            debezium.OPTIONS,
            debezium.decoder,
            changelog=Changelog.RETRACT,
            metadata=debezium.METADATA,
        ),
        Format(
            "canal-json",
            canal.OPTIONS,
            canal.decoder,
            changelog=Changelog.RETRACT,
            metadata=canal.METADATA,
        ),
    ):
        registry.formats[format_.name] = format_
