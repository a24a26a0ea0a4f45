"""The connectors `log` and `upsert-log`: the warehouse's own durable topics, with the contract and guarantees of Kafka.

Same formats, keys, metadata columns, offsets, startup and bounded modes as `kafka` and `upsert-kafka`, and no server. The
topics live in the warehouse's directory and can be read and written by any process; those of a warehouse in memory are its
own, and end with it.
"""

from __future__ import annotations

from dataclasses import replace

from forebay.connectors import options as read
from forebay.connectors import records
from forebay.connectors.topiclog import options as o
from forebay.connectors.topiclog.sink import LogSink, LogSinkSpec
from forebay.connectors.topiclog.source import LogSource
from forebay.connectors.topiclog.store import LogStore, forget_memory, open_store
from forebay.engine.connector import Changelog, Connector, Registry, TableSpec
from forebay.engine.errors import OptionError
from forebay.engine.files import Clock, Files

__all__ = ["LogStore", "forget_memory", "open_store", "register"]


def _sink_spec(spec: TableSpec) -> LogSinkSpec:
    topics = o.topics_of(spec)
    if len(topics) > 1:
        raise OptionError(f"table '{spec.name}' names several topics to write to", hint="use a metadata column 'topic'")
    if not topics and not any(c.metadata == "topic" and not c.virtual for c in spec.columns):
        raise OptionError(f"table '{spec.name}' needs option 'topic'", hint="or a metadata column 'topic'")
    return LogSinkSpec(
        name=f"{spec.options.get(o.SINK_ID.name) or ''}{spec.job or ''}/{spec.name}",
        topic=topics[0] if topics else None,
        partitions=read.integer(spec.options, o.PARTITIONS, 1),
        exactly_once=read.required(spec.options, o.GUARANTEE) == "exactly-once",
        partitioner=read.required(spec.options, o.PARTITIONER),
        retention_ms=_unless_negative(read.integer(spec.options, o.RETENTION_MS, -1)),
        retention_bytes=_unless_negative(read.integer(spec.options, o.RETENTION_BYTES, -1)),
    )


def _unless_negative(value: int) -> int | None:
    return None if value < 0 else value


def register(registry: Registry, files: Files | None = None, clock: Clock | None = None) -> None:
    """Make `'connector' = 'log'` and `'upsert-log'` known. `files` and `clock` take the place of the real ones."""
    ticking = clock or Clock()

    def source(spec: TableSpec, upsert: bool) -> LogSource:
        records.check_metadata(spec)
        decoder = records.RecordDecoder(registry, spec, upsert)
        return LogSource(spec, decoder, lambda: open_store(spec.warehouse, files), upsert, ticking)

    def sink(spec: TableSpec, upsert: bool) -> LogSink:
        encoder = records.RecordEncoder(registry, spec, upsert)
        return LogSink(_sink_spec(spec), encoder, lambda: open_store(spec.warehouse, files), ticking)

    plain = Connector(
        "log",
        o.OPTIONS,
        source=lambda spec: source(spec, upsert=False),
        sink=lambda spec: sink(spec, upsert=False),
        sink_changelog=lambda spec: records.value_format(registry, spec).format.changelog,
        uses_format=True,
        metadata=records.METADATA,
    )
    registry.connectors["log"] = plain
    registry.connectors["upsert-log"] = replace(
        plain,
        name="upsert-log",
        options=o.UPSERT_OPTIONS,
        source=lambda spec: source(spec, upsert=True),
        sink=lambda spec: sink(spec, upsert=True),
        sink_changelog=lambda spec: Changelog.UPSERT,
    )
