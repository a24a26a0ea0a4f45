"""An open Kafka input: manual assignment, one split per partition ('topic-0'), positions are the next offset.

Transactions leave control records that no reader sees: the end-of-partition event, not the last message, tells that a
partition is read to its end. An offset that retention has removed is an error unless 'scan.offset-reset' says where to go on.
What librdkafka mends by itself (a broker that is away) is logged and waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from forebay.connectors.kafka import options as o
from forebay.connectors.kafka.errors import LOG, failure, passing
from forebay.connectors.kafka.intake import Chunk, Event, intake_of
from forebay.connectors.records import RecordDecoder
from forebay.engine.connector import DeadLetter, Fetched, Position, Reader, Records, merge
from forebay.engine.errors import ConnectorError

UNBOUNDED = 2**63 - 1
LOOK_SECONDS = 30.0
"""A bounded input that cannot end because its topic was deleted is told within this time."""
GONE = "if it was deleted on purpose, drop the job and create it again"
Offsets = Callable[[str, int], int]
_NOTHING = pa.array([], pa.binary())


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


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What a reader reads."""

    topics: Callable[[float], list[tuple[str, int]]]
    """Lists (topic, partition), asking the broker for at most so many seconds."""
    begin: Offsets
    """Where a partition begins that is known from the start; later ones begin at their first record."""
    end: Offsets | None
    """Where it ends; None: never, and new partitions are looked for."""
    reset: str
    interval: float
    """Seconds between two looks for new partitions."""
    commits: bool
    """Whether the table names a consumer group."""
    queue: int
    """Bytes that the client may fetch ahead."""


class KafkaReader(Reader):
    """Polls all partitions through one client."""

    def __init__(self, consumer: Any, decoder: RecordDecoder, plan: ReadPlan) -> None:
        self._consumer, self._decoder, self._plan = consumer, decoder, plan
        self._intake = intake_of(consumer, headers=decoder.needs("headers", _NOTHING))
        self._splits: list[_Split] = []
        self._index: dict[tuple[str, int], int] = {}
        self._one_topic: str | None = None
        self._places: dict[str, npt.NDArray[np.int32]] = {}
        """Per topic: the split of every partition."""
        self._partitions = np.empty(0, np.int32)
        """Of every split: its partition."""
        self._limits: Mapping[str, Position] | None = None
        try:
            self._add(plan.topics(o.TUNING.request_seconds), plan.begin, plan.end or _never)
        except BaseException:
            self._intake.close()
            raise
        self._looked = time.monotonic()
        self._doubtful = False
        """The last look missed something."""
        self._width = 0.0
        """Bytes of a record of the last chunk, about."""

    def _add(self, found: list[tuple[str, int]], begin: Offsets, end: Offsets) -> None:
        for topic, partition in found:
            if (topic, partition) in self._index:
                continue
            split = _Split(topic, partition, begin(topic, partition), end(topic, partition))
            split.offset = self._kept(split, split.offset)
            split.limit = self._limit_of(split)
            self._index[topic, partition] = len(self._splits)
            self._splits.append(split)
            self._assign(split)
            self._pause(split)
        self._partitions = np.array([s.partition for s in self._splits], np.int32)
        topics: dict[str, list[int]] = {}
        for i, split in enumerate(self._splits):
            topics.setdefault(split.topic, []).append(i)
        for topic, places in topics.items():
            self._places[topic] = np.zeros(self._partitions[places].max() + 1, np.int32)
            self._places[topic][self._partitions[places]] = places
        self._one_topic = next(iter(topics)) if len(topics) == 1 else None

    def _kept(self, split: _Split, wanted: int) -> int:
        """`wanted`, or where to go on when the broker no longer has it."""
        low, high = watermarks(self._consumer, split.topic, split.partition)
        if low <= wanted <= high or wanted >= split.stop:
            return wanted
        if self._plan.reset == "error":
            raise ConnectorError(
                f"topic '{split.topic}' partition {split.partition} no longer has offset {wanted}",
                detail=f"the broker has offsets {low} to {high}",
                hint="change 'scan.startup.mode', or set 'scan.offset-reset' to 'earliest' or 'latest'",
                retryable=False,
            )
        return low if self._plan.reset == "earliest" else high

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
            if done:
                self._consumer.incremental_unassign([TopicPartition(split.topic, split.partition)])
            else:
                self._assign(split)
            split.paused = done

    def _assign(self, split: _Split) -> None:
        self._intake.expect(split.topic, split.partition)
        self._consumer.incremental_assign([TopicPartition(split.topic, split.partition, split.offset)])

    def lag(self) -> int | None:
        waiting = 0
        for s in self._splits:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(s.topic, s.partition), cached=True)
            waiting += max(min(high, s.last) - s.offset, 0)
        return waiting

    def nbytes(self) -> int:
        return int(min(self._plan.queue, (self.lag() or 0) * (self._width + o.TUNING.message_bytes)))

    def committed(self, positions: Mapping[str, Position]) -> None:
        at = [TopicPartition(s.topic, s.partition, int(positions[s.name])) for s in self._splits if s.name in positions]
        if at and self._plan.commits:
            try:
                self._consumer.commit(offsets=at, asynchronous=True)
            except KafkaException as e:  # positions are in the checkpoint; the group is for others to look at
                LOG.warning("offsets were not committed to the consumer group: %s", e)

    def close(self) -> None:
        self._intake.close()
        self._consumer.close()

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        if self._look_due():
            self._look()
        parts: list[Fetched] = []
        while max_rows > 0 and not self.finished():
            asked = min(max_rows, o.TUNING.chunk)
            fetched, came = self._take(asked, 0.0 if parts else timeout)
            parts += [] if fetched is None else [fetched]
            if came < asked:
                break
            max_rows -= asked
        return merge(parts)

    def _take(self, most: int, timeout: float) -> tuple[Fetched | None, int]:
        """One chunk, and how many messages and events it had."""
        try:
            with self._intake.take(most, timeout) as chunk:
                came = len(chunk) + len(chunk.events)
                fetched = self._decode(chunk) if len(chunk) else None
                events = chunk.events
        except KafkaException as e:
            raise failure("reading Kafka", e) from e
        for event in events:
            self._happened(event)
        self._advance()
        return fetched, came

    def _look_due(self) -> bool:
        interval = self._plan.interval if self._plan.end is None else min(self._plan.interval, LOOK_SECONDS)
        return time.monotonic() - self._looked >= (1.0 if self._doubtful else interval)

    def _look(self) -> None:
        """Look for new partitions, and whether the known ones are there: librdkafka says nothing of a deleted topic.

        A broker that does not answer is asked the next time; what is gone must be missed twice, since a broker that has
        just come back may not know all yet.
        """
        self._looked = time.monotonic()
        try:
            found = self._plan.topics(min(o.TUNING.request_seconds, 1.0))
            for topic, partition in self._index.keys() - set(found):
                raise ConnectorError(f"topic '{topic}' partition {partition} is gone", retryable=False, hint=GONE)
            if self._plan.end is None:
                self._add(found, lambda t, p: watermarks(self._consumer, t, p)[0], _never)
            self._doubtful = False
        except ConnectorError as e:
            if self._doubtful and not e.retryable:
                raise
            self._doubtful = not e.retryable
            LOG.warning("looking for partitions: %s", e)

    def _happened(self, event: Event) -> None:
        """The end of a partition, or an error. What librdkafka mends by itself is logged only."""
        error = event.error
        place = None if event.topic is None else self._index.get((event.topic, event.partition))
        split = None if place is None else self._splits[place]
        if split is not None and error.code() == KafkaError._PARTITION_EOF:
            split.offset = max(split.offset, min(event.offset, split.last))
        elif split is not None and error.code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
            split.offset = self._kept(split, split.offset)
            self._consumer.seek(TopicPartition(split.topic, split.partition, split.offset))
        elif passing(error):
            LOG.warning("reading Kafka: %s", error.str())
        else:
            raise failure("reading Kafka" if split is None else f"reading topic '{split.topic}'", error)

    def _advance(self) -> None:
        """Pause what is at its end."""
        for split in self._splits:
            self._pause(split)

    def _decode(self, chunk: Chunk) -> Fetched | None:
        splits, offsets = self._splits_of(chunk), chunk.offsets()
        if any(s.last != UNBOUNDED for s in self._splits):
            last = np.array([s.last for s in self._splits], np.int64)
            first = np.array([s.offset for s in self._splits], np.int64)
            for index in np.unique(splits[offsets >= last[splits]]).tolist():
                self._splits[index].offset = self._splits[index].last
            keep = np.flatnonzero((offsets < last[splits]) & (offsets >= first[splits]))
            if len(keep) < len(chunk):
                chunk.keep(keep)
                splits, offsets = splits[keep], offsets[keep]
        if not len(chunk):
            return None
        ends = np.full(len(self._splits), -1, np.int64)
        ends[splits] = offsets  # ascending within a split: its last one stays
        for split, end in zip(self._splits, ends.tolist()):
            split.offset = max(split.offset, end + 1)
        records = self._records(chunk, splits, offsets)
        self._width = records.values.nbytes / len(records)
        decoded = self._decoder.decode(records)
        return Fetched(
            decoded.batch,
            None if len(self._splits) == 1 else splits[decoded.record],
            _completed(decoded.dead, records, chunk) if decoded.dead else (),
            decoded.schema_changes,
            decoded.unknown_fields,
            nbytes=records.values.nbytes,
            records=len(records),
        )

    def _splits_of(self, chunk: Chunk) -> npt.NDArray[np.int32]:
        """Of every message: the place of its split."""
        if len(self._splits) == 1:
            return np.zeros(len(chunk), np.int32)
        if self._one_topic is not None:
            return self._places[self._one_topic][chunk.partitions()]
        names, topics = chunk.topics()
        places = [self._places[name] for name in names]
        begins = np.cumsum([0] + [len(p) for p in places])
        return np.concatenate(places)[begins[topics] + chunk.partitions()]

    def _records(self, chunk: Chunk, splits: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> Records:
        """The messages as columns, those that the decoder needs."""
        values, source = chunk.values(), self._one_topic
        keys = times = types = None
        if self._decoder.needs("key", values):
            keys = chunk.keys()
        if self._decoder.needs("timestamp", values) or self._decoder.needs("timestamp-type", values):
            times, types = chunk.timestamps()
        if source is None:
            names, topics = chunk.topics()
            source = pa.array(names).take(pa.array(topics))
        return Records(
            values=values,
            source=source,
            partitions=self._partitions[splits],
            offsets=offsets,
            keys=keys,
            timestamps=times,
            timestamp_types=types,
            headers=chunk.headers() if self._decoder.needs("headers", values) else None,
        )


def _completed(dead: Sequence[DeadLetter], records: Records, chunk: Chunk) -> tuple[DeadLetter, ...]:
    """Dead letters with the keys and times of their messages, which decoding had no need of."""
    keys, (times, _) = chunk.keys(), chunk.timestamps()
    topics = [records.source] * len(records) if isinstance(records.source, str) else records.source.to_pylist()
    at = {p: i for i, p in enumerate(zip(topics, records.partitions.tolist(), records.offsets.tolist()))}
    found = [(d, at[d.source, d.partition, d.offset]) for d in dead]
    return tuple(replace(d, key=keys[i].as_py(), timestamp=int(times[i])) for d, i in found)


def _never(topic: str, partition: int) -> int:
    return UNBOUNDED


def watermarks(consumer: Any, topic: str, partition: int) -> tuple[int, int]:
    """The first and the next offset of a partition."""
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=o.TUNING.request_seconds)
    except KafkaException as e:
        raise failure(f"asking for the offsets of topic '{topic}' partition {partition}", e) from e
    return int(low), int(high)


def first_time(consumer: Any, topic: str, partition: int, low: int) -> int | None:
    """The timestamp (ms since 1970) of the first record from offset `low` on; None if there is none that can be read."""
    at = TopicPartition(topic, partition, low)
    consumer.incremental_assign([at])
    try:
        deadline = time.monotonic() + o.TUNING.request_seconds
        while time.monotonic() < deadline:
            message = consumer.poll(0.1)
            if message is None:
                continue
            if message.error() is None:
                return int(message.timestamp()[1])
            if message.error().code() == KafkaError._PARTITION_EOF:
                return None
            if not passing(message.error()):
                raise failure(f"reading the first record of topic '{topic}' partition {partition}", message.error())
        raise ConnectorError(f"the first record of topic '{topic}' partition {partition} did not come")
    finally:
        consumer.incremental_unassign([at])
