"""The connectors `kafka` and `upsert-kafka`: topics of an Apache Kafka cluster as tables, under Flink's option names.

The client library is loaded when a table of them is first opened.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from forebay.connectors import records
from forebay.connectors.kafka import options as o
from forebay.engine.connector import Changelog, Connector, Registry, TableSpec

if TYPE_CHECKING:
    from forebay.connectors.kafka.sink import KafkaSink
    from forebay.connectors.kafka.source import KafkaSource


def register(registry: Registry) -> None:
    """Make `'connector' = 'kafka'` and `'upsert-kafka'` known."""

    def source(spec: TableSpec, upsert: bool) -> KafkaSource:
        from forebay.connectors.kafka.source import KafkaSource

        records.check_metadata(spec)
        return KafkaSource(spec, records.RecordDecoder(registry, spec, upsert), upsert)

    def sink(spec: TableSpec, upsert: bool) -> KafkaSink:
        from forebay.connectors.kafka.sink import open_sink

        return open_sink(spec, records.RecordEncoder(registry, spec, upsert))

    plain = Connector(
        "kafka",
        o.OPTIONS,
        source=lambda spec: source(spec, upsert=False),
        sink=lambda spec: sink(spec, upsert=False),
        sink_changelog=lambda spec: records.value_format(registry, spec).format.changelog,
        option_prefixes=(o.PREFIX,),
        uses_format=True,
        metadata=records.METADATA,
    )
    registry.connectors["kafka"] = plain
    registry.connectors["upsert-kafka"] = replace(
        plain,
        name="upsert-kafka",
        options=o.UPSERT_OPTIONS,
        source=lambda spec: source(spec, upsert=True),
        sink=lambda spec: sink(spec, upsert=True),
        sink_changelog=lambda spec: Changelog.UPSERT,
    )
