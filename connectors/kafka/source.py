"""Kafka topics as a source: what the startup and bounded modes mean, and the client that reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from forebay.connectors import options as read
from forebay.connectors.kafka import options as o
from forebay.connectors.kafka.errors import LOG, ask, failure, refused
from forebay.connectors.kafka.reader import UNBOUNDED, KafkaReader, Offsets, ReadPlan, first_time, watermarks
from forebay.connectors.kafka.transactions import committed
from forebay.connectors.rates import recent_rate
from forebay.connectors.records import RecordDecoder
from forebay.connectors.topiclog.options import check_topics, specific_offsets, topics_of
from forebay.engine.connector import Option, Position, Rate, Source, TableSpec
from forebay.engine.errors import ConnectorError, OptionError


class KafkaSource(Source):
    """A table over topics by name or pattern."""

    def __init__(self, spec: TableSpec, decoder: RecordDecoder, upsert: bool) -> None:
        self._options = spec.options
        self._decoder = decoder
        self._startup = "earliest-offset" if upsert else read.required(spec.options, o.STARTUP)
        if spec.begin is not None and o.STARTUP.name not in spec.options:
            self._startup = "timestamp"
            self._options = {**spec.options, o.STARTUP_TIME.name: str(spec.begin)}
        self._bounded = read.required(spec.options, o.BOUNDED)
        self._names, self._pattern = topics_of(spec), spec.options.get(o.PATTERN.name)
        self._spec = spec
        check_topics(spec, reading=False)
        if "group-offsets" in (spec.options.get(o.STARTUP.name), self._bounded):
            self._check_group()
        for mode, when, at in (
            (self._startup, o.STARTUP_TIME, o.STARTUP_OFFSETS),
            (self._bounded, o.BOUNDED_TIME, o.BOUNDED_OFFSETS),
        ):
            if mode == "timestamp":
                read.integer(self._options, when)
            if mode == "specific-offsets":
                specific_offsets(spec.options, at)
        o.client_properties(spec.options)
        self.schema, self.changelog = decoder.schema, decoder.changelog
        self.bounded = self._bounded != "unbounded"

    def _check_group(self) -> None:
        if not self._options.get(o.GROUP.name):
            raise OptionError("'group-offsets' needs option 'properties.group.id'", hint="or 'scan.startup.mode'")

    def reader(self, positions: Mapping[str, Position] | None) -> KafkaReader:
        check_topics(self._spec, reading=True)
        if (
            self._startup == "group-offsets"
        ):  # also where it is the default, which a table that is only written may have
            self._check_group()
        consumer = self._consumer()
        begin = self._offsets(consumer, self._startup, o.STARTUP_TIME, o.STARTUP_OFFSETS, 0)
        end = None
        if self.bounded:
            end = self._offsets(consumer, self._bounded, o.BOUNDED_TIME, o.BOUNDED_OFFSETS, UNBOUNDED)
        saved = {} if positions is None else dict(positions)

        def first(topic: str, partition: int) -> int:
            name = f"{topic}-{partition}"
            if name in saved:
                return int(saved[name])
            if positions is not None:  # it came after the checkpoint
                return watermarks(consumer, topic, partition)[0]
            return begin(topic, partition)

        plan = ReadPlan(
            topics=lambda seconds: self._found(consumer, seconds),
            begin=first,
            end=end,
            reset=read.required(self._options, o.RESET),
            interval=read.duration(self._options, o.DISCOVERY),
            commits=bool(self._options.get(o.GROUP.name)),
            queue=o.queue_bytes(self._options),
        )
        try:
            return KafkaReader(consumer, self._decoder, plan)
        except BaseException:
            consumer.close()
            raise

    def beginnings(self) -> dict[str, int | None]:
        consumer = self._consumer()
        try:
            found: dict[str, int | None] = {}
            for topic, partition in self._found(consumer, o.TUNING.request_seconds):
                low, high = watermarks(consumer, topic, partition)
                if low > 0:
                    found[f"{topic}-{partition}"] = first_time(consumer, topic, partition, low) if low < high else None
            return found
        finally:
            consumer.close()

    def rate(self, now: int) -> Rate | None:
        consumer = self._consumer()
        try:
            return recent_rate(
                self._found(consumer, o.TUNING.request_seconds),
                now // 1000,
                lambda p: watermarks(consumer, *p),
                lambda p, millis: self._offset_at(consumer, *p, millis),
                lambda p: first_time(consumer, *p, watermarks(consumer, *p)[0]),
            )
        finally:
            consumer.close()

    @staticmethod
    def _offset_at(consumer: Any, topic: str, partition: int, millis: int) -> int:
        """The first offset whose record is not older, or the next."""
        at = [TopicPartition(topic, partition, millis)]
        found = ask("looking up a time", lambda seconds: consumer.offsets_for_times(at, timeout=seconds))
        offset = int(found[0].offset)
        return offset if offset >= 0 else watermarks(consumer, topic, partition)[1]

    def _consumer(self) -> Any:
        tuned = {
            "group.id": "forebay",
            "queued.max.messages.kbytes": o.TUNING.queue_kilobytes,
            "queued.min.messages": o.TUNING.queue_messages,
            "fetch.queue.backoff.ms": o.TUNING.queue_backoff_ms,
            "fetch.wait.max.ms": o.TUNING.fetch_wait_ms,
            "isolation.level": "read_committed",
        }
        fixed = {
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "on_commit": _commit_reported,
        }
        try:
            return Consumer(tuned | o.for_consumer(o.client_properties(self._options)) | fixed, logger=LOG)
        except KafkaException as e:
            raise refused(e) from e

    def _found(self, consumer: Any, seconds: float) -> list[tuple[str, int]]:
        try:
            topics = consumer.list_topics(timeout=seconds).topics
        except KafkaException as e:
            raise failure(f"asking Kafka at '{self._options.get(o.BOOTSTRAP.name)}' for its topics", e) from e
        names = self._names or sorted(t for t in topics if re.fullmatch(self._pattern or "", t))
        for name in names:
            if name not in topics:
                raise ConnectorError(f"topic '{name}' does not exist", retryable=False, hint="create it first")
        return [(name, p) for name in names for p in sorted(topics[name].partitions)]

    def _offsets(self, consumer: Any, mode: str, when: Option, at: Option, missing: int) -> Offsets:
        """What a startup or bounded mode means for each partition."""
        match mode:
            case "latest-offset":
                return lambda t, p: watermarks(consumer, t, p)[1]
            case "specific-offsets":
                given = specific_offsets(self._options, at)
                return lambda t, p: given.get(p, missing)
            case "timestamp":
                millis = read.integer(self._options, when)
                return lambda t, p: self._offset_at(consumer, t, p, millis)
            case "group-offsets":

                def by_group(t: str, p: int) -> int:
                    found = ask("reading the group's offsets", lambda seconds: committed(consumer, t, p, seconds))
                    offset = int(found.offset)
                    return offset if offset != OFFSET_INVALID else self._uncommitted(consumer, t, p)

                return by_group
        return lambda t, p: watermarks(consumer, t, p)[0]

    def _uncommitted(self, consumer: Any, topic: str, partition: int) -> int:
        """Where to begin a partition of which the group has committed nothing."""
        low, high = watermarks(consumer, topic, partition)
        match self._options.get(f"{o.PREFIX}auto.offset.reset", "earliest"):
            case "none" | "error":
                raise ConnectorError(
                    f"the consumer group has no offset of topic '{topic}' partition {partition}",
                    hint="set 'properties.auto.offset.reset' to 'earliest' or 'latest', or choose a startup mode",
                    retryable=False,
                )
            case "latest" | "largest" | "end":
                return high
        return low


def _commit_reported(error: KafkaError | None, offsets: list[TopicPartition]) -> None:
    if error is not None and error.code() != KafkaError._NO_OFFSET:
        LOG.warning("offsets were not committed to the consumer group: %s", error.str())
