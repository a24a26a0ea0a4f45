"""Options of the embedded log, named as Kafka's where they mean the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

from forebay.connectors import bootstrap, records
from forebay.connectors import options as read
from forebay.engine.connector import Option, TableSpec
from forebay.engine.errors import OptionError
from forebay.engine.optionkinds import Kind

_MODES = ("latest-offset", "timestamp", "specific-offsets")

TOPIC = Option("topic", "topic to read or write; several to read are separated by ';'")
TOPIC_PATTERN = Option(
    "topic-pattern", "regular expression of topics to read; new ones are found while running", kind=Kind.PATTERN
)
PARTITIONS = Option(
    "partitions",
    "partitions of a topic that is not there yet; an existing one is only ever widened",
    "1",
    kind=Kind.INTEGER,
    least=1,
)
STARTUP_MODE = Option("scan.startup.mode", "where to begin", "earliest-offset", choices=("earliest-offset", *_MODES))
STARTUP_TIME = Option(
    "scan.startup.timestamp-millis", "begin at this timestamp, milliseconds since 1970", kind=Kind.INTEGER, least=0
)
STARTUP_OFFSETS = Option("scan.startup.specific-offsets", "'partition:0,offset:42;partition:1,offset:300'")
BOUNDED_MODE = Option("scan.bounded.mode", "where to end", "unbounded", choices=("unbounded", *_MODES))
BOUNDED_TIME = Option(
    "scan.bounded.timestamp-millis", "end at this timestamp, milliseconds since 1970", kind=Kind.INTEGER, least=0
)
BOUNDED_OFFSETS = Option("scan.bounded.specific-offsets", "'partition:0,offset:42;partition:1,offset:300'")
GUARANTEE = Option(
    "sink.delivery-guarantee",
    "'exactly-once' shows rows at checkpoints only, 'at-least-once' at once",
    "at-least-once",
    choices=("exactly-once", "at-least-once", "none"),
)
SINK_ID = Option(
    "sink.transactional-id-prefix", "prefix of the name under which the log remembers this sink's checkpoints"
)
PARTITIONER = Option(
    "sink.partitioner",
    "by key, else batch by batch ('default'); row by row; or all to partition 0 ('fixed')",
    "default",
    choices=("default", "round-robin", "fixed"),
)
RETENTION_MS = Option(
    "retention.ms",
    "remove closed segments whose records are all older; -1 keeps them",
    "-1",
    kind=Kind.INTEGER,
    least=-1,
)
RETENTION_BYTES = Option(
    "retention.bytes",
    "remove the oldest closed segments of a partition beyond this; -1 keeps",
    "-1",
    kind=Kind.INTEGER,
    least=-1,
)

SOURCE_OPTIONS = (
    TOPIC,
    TOPIC_PATTERN,
    PARTITIONS,
    STARTUP_MODE,
    STARTUP_TIME,
    STARTUP_OFFSETS,
    BOUNDED_MODE,
    BOUNDED_TIME,
    BOUNDED_OFFSETS,
)
SINK_OPTIONS = (GUARANTEE, SINK_ID, PARTITIONER, RETENTION_MS, RETENTION_BYTES)
OPTIONS = (*SOURCE_OPTIONS, *SINK_OPTIONS, *records.OPTIONS, *bootstrap.OPTIONS)
UPSERT_OPTIONS = tuple(o for o in OPTIONS if not o.name.startswith("scan.startup") and o.name != "key.fields")

_OFFSET = re.compile(r"\s*partition:(\d+),offset:(\d+)\s*")


def topics_of(spec: TableSpec) -> list[str]:
    """The topics that are named."""
    return [t.strip() for t in (spec.options.get(TOPIC.name) or "").split(";") if t.strip()]


def check_topics(spec: TableSpec, *, reading: bool) -> None:
    """Refuse a table that names no topic, or both topics and a pattern. One whose rows name their topic may be written only,
    and lacks a topic when it is read.

    Raises:
        OptionError: saying what is missing.
    """
    named = bool(topics_of(spec)) + bool(spec.options.get(TOPIC_PATTERN.name))
    by_row = any(c.metadata == "topic" and not c.virtual for c in spec.columns)
    if named == 2 or (named == 0 and (reading or not by_row)):
        raise OptionError(f"table '{spec.name}' needs option 'topic' or 'topic-pattern', one of them", hint=TOPIC.doc)


def specific_offsets(options: Mapping[str, str], option: Option) -> dict[int, int]:
    """Offsets by partition, from Flink's notation."""
    value = read.required(options, option)
    found = [_OFFSET.fullmatch(part) for part in value.split(";") if part.strip()]
    if not found or any(m is None for m in found):
        raise read.bad_value(option, value, option.doc)
    return {int(m[1]): int(m[2]) for m in found if m is not None}
