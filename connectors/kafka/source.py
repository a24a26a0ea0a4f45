"""Reading Kafka: manual assignment, one split per partition ('topic-0'), positions are the next offset.

Transactions leave control records that no reader sees: the end-of-partition event, not the last message, tells that a
partition is read to its end. An offset that retention has removed is an error unless 'scan.offset-reset' says where to go on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from forebay.connectors import options as read
from forebay.connectors.kafka import options as o
from forebay.connectors.records import RecordDecoder
from forebay.connectors.topiclog.options import specific_offsets, topics_of
from forebay.engine.connector import DeadLetter, Fetched, Option, Position, Reader, Records, Source, TableSpec
from forebay.engine.errors import ConnectorError, OptionError

UNBOUNDED = 2**63 - 1
Offsets = Callable[[str, int], int]


@dataclass(slots=True)
class _Split:
    topic: str
    partition: int
    offset: int
    stop: int = UNBOUNDED
    limit: int = UNBOUNDED
    paused: bool = False

    @property
    def name(self) -> str:
        return f"{self.topic}-{self.partition}"

    @property
    def last(self) -> int:
        return min(self.stop, self.limit)


class KafkaReader(Reader):
    """Polls all partitions through one client."""

    def __init__(
        self,
        consumer: Any,
        decoder: RecordDecoder,
        topics: Callable[[], list[tuple[str, int]]],
        begin: Offsets,
        end: Offsets | None,
        reset: str,
        interval: float,
    ) -> None:
        """`topics` lists (topic, partition); `begin` and `end` give a partition's first offset and bound. Partitions
        that appear later are read from their start, unless the input is bounded."""
        self._consumer, self._decoder, self._topics = consumer, decoder, topics
        self._reset, self._interval, self._growing = reset, interval, end is None
        self._splits: list[_Split] = []
        self._index: dict[tuple[str, int], int] = {}
        self._limits: Mapping[str, Position] | None = None
        self._add(topics(), begin, end or (lambda topic, partition: UNBOUNDED))
        self._discovered = time.monotonic()

    def _add(self, found: list[tuple[str, int]], begin: Offsets, end: Offsets) -> None:
        for topic, partition in found:
            if (topic, partition) in self._index:
                continue
            split = _Split(topic, partition, begin(topic, partition), end(topic, partition))
            split.offset = self._kept(split, split.offset)
            split.limit = self._limit_of(split)
            self._index[topic, partition] = len(self._splits)
            self._splits.append(split)
            self._consumer.incremental_assign([TopicPartition(topic, partition, split.offset)])
            self._pause(split)

    def _kept(self, split: _Split, wanted: int) -> int:
        """`wanted`, or where to go on when the broker no longer has it."""
        low, high = watermarks(self._consumer, split.topic, split.partition)
        if low <= wanted <= high or wanted >= split.stop:
            return wanted
        if self._reset == "error":
            raise ConnectorError(
                f"topic '{split.topic}' partition {split.partition} no longer has offset {wanted}",
                detail=f"the broker has offsets {low} to {high}",
                hint="change 'scan.startup.mode', or set 'scan.offset-reset' to 'earliest' or 'latest'",
                retryable=False,
            )
        return low if self._reset == "earliest" else high

    def splits(self) -> Sequence[str]:
        return [s.name for s in self._splits]

    def positions(self) -> dict[str, Position]:
        return {s.name: s.offset for s in self._splits}

    def finished(self) -> bool:
        return all(s.offset >= s.last for s in self._splits)

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self._limits = positions
        for split in self._splits:
            split.limit = self._limit_of(split)
            self._pause(split)

    def _limit_of(self, split: _Split) -> int:
        return UNBOUNDED if self._limits is None else int(self._limits.get(split.name, split.offset))

    def _pause(self, split: _Split) -> None:
        """Let go of a split at its end; taking it again starts at its own position, whatever was prefetched."""
        done = split.offset >= split.last
        if done != split.paused:
            at = TopicPartition(split.topic, split.partition, split.offset)
            if done:
                self._consumer.incremental_unassign([at])
            else:
                self._consumer.incremental_assign([at])
            split.paused = done

    def lag(self) -> int | None:
        waiting = 0
        for s in self._splits:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(s.topic, s.partition), cached=True)
            waiting += max(min(high, s.last) - s.offset, 0)
        return waiting

    def committed(self, positions: Mapping[str, Position]) -> None:
        at = [TopicPartition(s.topic, s.partition, int(positions[s.name])) for s in self._splits if s.name in positions]
        if at:
            self._consumer.commit(offsets=at, asynchronous=True)

    def close(self) -> None:
        self._consumer.close()

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        if self._growing and time.monotonic() - self._discovered >= self._interval:
            self._discovered = time.monotonic()
            known = {(t, p): i for (t, p), i in self._index.items()}
            fresh = [tp for tp in self._topics() if tp not in known]
            self._add(fresh, lambda t, p: watermarks(self._consumer, t, p)[0], lambda t, p: UNBOUNDED)
        if self.finished():
            return None
        messages = self._consumer.consume(min(max_rows, 1_000_000), timeout)
        events = [m for m in messages if m.error() is not None]
        good = [m for m in messages if m.error() is None] if events else messages
        fetched = self._decode(good) if good else None
        for event in events:
            self._failed(event)
        self._advance()
        return fetched

    def _failed(self, message: Any) -> None:
        error = message.error()
        split = self._splits[self._index[message.topic(), message.partition()]] if message.topic() else None
        if split is not None and error.code() == KafkaError._PARTITION_EOF:
            split.offset = max(split.offset, min(int(message.offset()), split.last))
            return
        if split is not None and error.code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
            split.offset = self._kept(split, split.offset)
            self._consumer.seek(TopicPartition(split.topic, split.partition, split.offset))
            return
        raise ConnectorError(f"reading Kafka failed: {error.str()}", retryable=bool(error.retriable()))

    def _advance(self) -> None:
        """Pause what is at its end."""
        for split in self._splits:
            self._pause(split)

    def _decode(self, messages: list[Any]) -> Fetched | None:
        splits = self._splits_of(messages)
        offsets = _offsets_of(messages, len(self._splits) == 1)
        if any(s.last != UNBOUNDED for s in self._splits):
            last = np.array([s.last for s in self._splits], np.int64)
            first = np.array([s.offset for s in self._splits], np.int64)
            for index in np.unique(splits[offsets >= last[splits]]).tolist():
                self._splits[index].offset = self._splits[index].last
            keep = np.flatnonzero((offsets < last[splits]) & (offsets >= first[splits]))
            if keep.shape[0] < len(messages):
                messages, splits, offsets = [messages[i] for i in keep], splits[keep], offsets[keep]
        if not messages:
            return None
        for index in np.unique(splits).tolist():
            split = self._splits[index]
            split.offset = max(split.offset, int(offsets[splits == index].max()) + 1)
        records = self._records(messages, splits, offsets)
        decoded = self._decoder.decode(records)
        return Fetched(
            decoded.batch,
            None if len(self._splits) == 1 else splits[decoded.record],
            _completed(decoded.dead, messages) if decoded.dead else (),
            decoded.schema_changes,
            decoded.unknown_fields,
            nbytes=records.values.nbytes,
            records=len(messages),
        )

    def _splits_of(self, messages: list[Any]) -> npt.NDArray[np.int32]:
        if len(self._splits) == 1:
            return np.zeros(len(messages), np.int32)
        index = self._index
        return np.array([index[m.topic(), m.partition()] for m in messages], np.int32)

    def _records(self, messages: list[Any], splits: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> Records:
        """The messages as columns; every call on a message costs, so only what the decoder needs is asked for."""
        values = pa.array([m.value() for m in messages], pa.binary())
        keys = timestamps = headers = None
        if self._decoder.needs("key", values):
            keys = pa.array([m.key() for m in messages], pa.binary())
        if self._decoder.needs("timestamp", values):
            timestamps = np.array([m.timestamp()[1] for m in messages], np.int64)
        if self._decoder.needs("headers", values):
            headers = [m.headers() for m in messages]
        topics = {s.topic for s in self._splits}
        return Records(
            values=values,
            source=topics.pop() if len(topics) == 1 else pa.array([m.topic() for m in messages]),
            partitions=np.array([s.partition for s in self._splits], np.int32)[splits],
            offsets=offsets,
            keys=keys,
            timestamps=timestamps,
            headers=headers,
        )


def _offsets_of(messages: list[Any], one_split: bool) -> npt.NDArray[np.int64]:
    first, last = messages[0].offset(), messages[-1].offset()
    if one_split and last - first == len(messages) - 1:  # ascending, and without gaps
        return np.arange(first, last + 1, dtype=np.int64)
    return np.array([m.offset() for m in messages], np.int64)


def _completed(dead: Sequence[DeadLetter], messages: list[Any]) -> tuple[DeadLetter, ...]:
    """Dead letters with the keys and times of their messages, which decoding had no need of."""
    places = {(m.topic(), m.partition(), m.offset()): m for m in messages}
    found = [(d, places[d.source, d.partition, d.offset]) for d in dead]
    return tuple(replace(d, key=m.key(), timestamp=m.timestamp()[1]) for d, m in found)


def watermarks(consumer: Any, topic: str, partition: int) -> tuple[int, int]:
    """The first and the next offset of a partition."""
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=o.TUNING.request_seconds)
    except KafkaException as e:
        raise ConnectorError(f"Kafka gives no offsets of topic '{topic}' partition {partition}: {e}") from e
    return int(low), int(high)


class KafkaSource(Source):
    """A table over topics by name or pattern."""

    def __init__(self, spec: TableSpec, decoder: RecordDecoder, upsert: bool) -> None:
        self._options = spec.options
        self._decoder = decoder
        self._startup = "earliest-offset" if upsert else read.required(spec.options, o.STARTUP)
        self._bounded = read.required(spec.options, o.BOUNDED)
        self._names, self._pattern = topics_of(spec), spec.options.get(o.PATTERN.name)
        if bool(self._names) == bool(self._pattern):
            raise OptionError(f"table '{spec.name}' needs option 'topic' or 'topic-pattern', one of them")
        if "group-offsets" in (self._startup, self._bounded) and not spec.options.get(o.GROUP.name):
            raise OptionError("'group-offsets' needs option 'properties.group.id'", hint="or 'scan.startup.mode'")
        for mode, when, at in (
            (self._startup, o.STARTUP_TIME, o.STARTUP_OFFSETS),
            (self._bounded, o.BOUNDED_TIME, o.BOUNDED_OFFSETS),
        ):
            if mode == "timestamp":
                read.integer(spec.options, when)
            if mode == "specific-offsets":
                specific_offsets(spec.options, at)
        o.client_properties(spec.options)
        self.schema, self.changelog = decoder.schema, decoder.changelog
        self.bounded = self._bounded != "unbounded"

    def reader(self, positions: Mapping[str, Position] | None) -> KafkaReader:
        consumer = self._consumer()
        begin = self._offsets(consumer, self._startup, o.STARTUP_TIME, o.STARTUP_OFFSETS, 0)
        end = None
        if self.bounded:
            end = self._offsets(consumer, self._bounded, o.BOUNDED_TIME, o.BOUNDED_OFFSETS, UNBOUNDED)
        saved = {} if positions is None else dict(positions)

        def first(topic: str, partition: int) -> int:
            name = f"{topic}-{partition}"
            return int(saved[name]) if name in saved else begin(topic, partition)

        reset, interval = read.required(self._options, o.RESET), read.duration(self._options, o.DISCOVERY)
        try:
            return KafkaReader(consumer, self._decoder, lambda: self._found(consumer), first, end, reset, interval)
        except BaseException:
            consumer.close()
            raise

    def _consumer(self) -> Any:
        tuned = {
            "group.id": "forebay",
            "queued.max.messages.kbytes": o.TUNING.queue_kilobytes,
            "fetch.queue.backoff.ms": 5,  # a full queue is drained in milliseconds; by default fetching rests for a second
            "max.partition.fetch.bytes": o.TUNING.fetch_partition_bytes,
            "isolation.level": "read_committed",
        }
        fixed = {
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
        try:
            return Consumer(tuned | o.client_properties(self._options) | fixed)
        except KafkaException as e:
            raise OptionError(f"Kafka refuses an option: {e}", hint="'properties.*' take librdkafka's names") from e

    def _found(self, consumer: Any) -> list[tuple[str, int]]:
        try:
            topics = consumer.list_topics(timeout=o.TUNING.request_seconds).topics
        except KafkaException as e:
            servers = self._options.get(o.BOOTSTRAP.name)
            raise ConnectorError(f"Kafka at '{servers}' does not answer: {e}") from e
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

                def by_time(t: str, p: int) -> int:
                    found = consumer.offsets_for_times([TopicPartition(t, p, millis)], timeout=o.TUNING.request_seconds)
                    offset = int(found[0].offset)
                    return offset if offset >= 0 else watermarks(consumer, t, p)[1]

                return by_time
            case "group-offsets":

                def by_group(t: str, p: int) -> int:
                    found = consumer.committed([TopicPartition(t, p)], timeout=o.TUNING.request_seconds)
                    offset = int(found[0].offset)
                    return offset if offset != OFFSET_INVALID else watermarks(consumer, t, p)[0]

                return by_group
        return lambda t, p: watermarks(consumer, t, p)[0]
