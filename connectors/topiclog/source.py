"""Reading the embedded log: a split per partition ('topic-0'), positioned by offset, live at the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from forebay.connectors import options as read
from forebay.connectors.rates import recent_rate
from forebay.connectors.records import RecordDecoder
from forebay.connectors.topiclog.frames import DataFrame, read_head, read_rows
from forebay.connectors.topiclog.options import (
    BOUNDED_MODE,
    BOUNDED_OFFSETS,
    BOUNDED_TIME,
    PARTITIONS,
    STARTUP_MODE,
    STARTUP_OFFSETS,
    STARTUP_TIME,
    TOPIC_PATTERN,
    check_topics,
    specific_offsets,
    topics_of,
)
from forebay.connectors.topiclog.store import LogStore, PartitionEnd, retired
from forebay.engine.connector import Fetched, Option, Position, Rate, Reader, Records, Source, TableSpec
from forebay.engine.errors import ConnectorError
from forebay.engine.files import Clock

UNBOUNDED = 2**63 - 1


@dataclass(slots=True)
class _Cursor:
    """One partition being read."""

    topic: str
    partition: int
    offset: int
    """The next record."""
    stop: int = UNBOUNDED
    """Bounded input: the first record not to read."""
    limit: int = UNBOUNDED
    at: tuple[int, int] | None = None
    """(segment, byte) of the frame that follows `frame`; None: to be located."""
    frame: DataFrame | None = None
    rows: pa.RecordBatch | None = None
    """The records of `frame`."""

    @property
    def name(self) -> str:
        return f"{self.topic}-{self.partition}"

    @property
    def last(self) -> int:
        return min(self.stop, self.limit)


@dataclass(frozen=True, slots=True)
class _Slice:
    cursor: int
    base: int
    rows: pa.RecordBatch


class LogReader(Reader):
    """Polls every partition in turn, so that none starves."""

    def __init__(
        self,
        store: LogStore,
        decoder: RecordDecoder,
        topics: Callable[[], list[str]],
        begin: Callable[[str, int], int],
        end: Callable[[str, int], int] | None,
        positions: Mapping[str, Position] | None,
        clock: Clock,
    ) -> None:
        """`begin` and `end` give a partition's first offset and bound; `begin` is asked where `positions` is silent.
        Without `end` the input has no end, and partitions that appear later are read too, from their start."""
        self._store = store
        self._decoder = decoder
        self._topics = topics
        self._clock = clock
        self._cursors: list[_Cursor] = []
        self._limits: Mapping[str, Position] | None = None
        self._turn = 0
        self._growing = end is None
        self._discover(begin, end or (lambda topic, partition: UNBOUNDED), positions or {})

    def _discover(
        self, begin: Callable[[str, int], int], end: Callable[[str, int], int], positions: Mapping[str, Position]
    ) -> None:
        for topic in self._topics():
            known = sum(c.topic == topic for c in self._cursors)
            for partition in range(known, len(self._store.partitions(topic))):
                name = f"{topic}-{partition}"
                offset = int(positions[name]) if name in positions else begin(topic, partition)
                cursor = _Cursor(topic, partition, offset, end(topic, partition))
                cursor.limit = self._limit_of(cursor)
                self._cursors.append(cursor)
        self._lost = {name: int(at) for name, at in positions.items() if at and name not in self.splits()}

    def splits(self) -> list[str]:
        return [c.name for c in self._cursors]

    def positions(self) -> dict[str, Position]:
        return {c.name: c.offset for c in self._cursors}

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self._limits = positions
        for cursor in self._cursors:
            cursor.limit = self._limit_of(cursor)

    def _limit_of(self, cursor: _Cursor) -> int:
        return UNBOUNDED if self._limits is None else int(self._limits.get(cursor.name, cursor.offset))

    def finished(self) -> bool:
        return all(c.offset >= c.last for c in self._cursors)

    def lag(self) -> int | None:
        ends = {t: self._store.partitions(t) for t in {c.topic for c in self._cursors}}
        return sum(max(min(ends[c.topic][c.partition].end, c.last) - c.offset, 0) for c in self._cursors)

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        deadline = self._clock.monotonic() + timeout
        while True:
            slices = self._collect(max_rows)
            if slices:
                return self._decode(slices)
            left = deadline - self._clock.monotonic()
            if left <= 0 or self.finished():
                return None
            self._store.wait(left)

    def _collect(self, max_rows: int) -> list[_Slice]:
        """Up to about `max_rows` records, an equal share of each partition first."""
        if self._growing:
            self._discover(lambda topic, partition: 0, lambda topic, partition: UNBOUNDED, {})
        ends = {t: self._store.partitions(t) for t in {c.topic for c in self._cursors}}
        self._check(ends)
        waiting = [i for i, c in enumerate(self._cursors) if c.offset < min(ends[c.topic][c.partition].end, c.last)]
        if not waiting:
            return []
        self._turn += 1
        start = self._turn % len(waiting)
        share = max(max_rows // len(waiting), 1)
        slices = []
        for index in (waiting[start:] + waiting[:start])[:max_rows]:
            cursor = self._cursors[index]
            left = min(share, min(ends[cursor.topic][cursor.partition].end, cursor.last) - cursor.offset)
            while left > 0:
                rows = self._advance(cursor, left)
                slices.append(_Slice(index, cursor.offset - rows.num_rows, rows))
                left -= rows.num_rows
        return slices

    def _check(self, ends: Mapping[str, Sequence[PartitionEnd]]) -> None:
        """Raise if a log does not reach to where it has been read."""
        short = [(c.name, c.offset) for c in self._cursors if c.offset > ends[c.topic][c.partition].end]
        for name, offset in [*self._lost.items(), *short]:
            raise ConnectorError(
                f"log '{name}' has lost records",
                retryable=False,
                detail=f"it was read up to offset {offset}, and does not reach that far any more",
                hint="put its files back, or drop the job and create it again to start from what is there",
            )

    def _advance(self, cursor: _Cursor, most: int) -> pa.RecordBatch:
        """At most `most` records from the cursor's frame, or of the next one."""
        if cursor.frame is None or not cursor.frame.base <= cursor.offset < cursor.frame.base + cursor.frame.count:
            self._next_frame(cursor)
        assert cursor.frame is not None and cursor.rows is not None
        rows = cursor.rows.slice(cursor.offset - cursor.frame.base, most)
        cursor.offset += rows.num_rows
        return rows

    def _next_frame(self, cursor: _Cursor) -> None:
        """Load the frame of the cursor's offset. Retention may remove files at any moment."""
        topic, partition = cursor.topic, cursor.partition
        try:
            segment, position = cursor.at or self._store.locate(topic, partition, cursor.offset)
            path = self._store.segment_file(topic, partition, segment)
            closed = segment != self._store.partitions(topic)[partition].segment
            if closed and position >= self._store.files.size(path):
                segment, position = cursor.offset, 0  # a segment is named by its first offset
                path = self._store.segment_file(topic, partition, segment)
            cursor.frame = read_head(self._store.files, path, position)
            cursor.rows = read_rows(self._store.files, path, cursor.frame)
            cursor.at = (segment, cursor.frame.stop)
        except FileNotFoundError:
            start = self._store.partitions(topic)[partition].start
            if cursor.at is None or cursor.offset < start:
                raise retired(topic, partition, cursor.offset, start) from None
            cursor.at = None  # only the segment behind the cursor is gone
            self._next_frame(cursor)

    def _decode(self, slices: list[_Slice]) -> Fetched:
        counts = np.array([s.rows.num_rows for s in slices])
        cursor_of = np.repeat(np.array([s.cursor for s in slices], np.int32), counts)
        records = self._records(slices, counts, cursor_of)
        decoded = self._decoder.decode(records)
        return Fetched(
            decoded.batch,
            None if len(self._cursors) == 1 else cursor_of[decoded.record],
            decoded.dead,
            decoded.schema_changes,
            decoded.unknown_fields,
            nbytes=sum(s.rows.nbytes for s in slices),
            records=len(records),
        )

    def _records(self, slices: list[_Slice], counts: np.ndarray, cursor_of: np.ndarray) -> Records:
        def column(name: str) -> pa.Array:
            return pa.concat_arrays([s.rows.column(name) for s in slices])

        topics = {self._cursors[s.cursor].topic for s in slices}
        partitions = np.array([c.partition for c in self._cursors], np.int32)
        names = pa.array([c.topic for c in self._cursors])
        headers = None
        if any("headers" in s.rows.schema.names for s in slices):
            headers = [
                h
                for s in slices
                for h in (
                    s.rows["headers"].to_pylist() if "headers" in s.rows.schema.names else [None] * s.rows.num_rows
                )
            ]
        return Records(
            values=column("value"),
            source=topics.pop() if len(topics) == 1 else names.take(pa.array(cursor_of)),
            partitions=partitions[cursor_of],
            offsets=np.concatenate([np.arange(s.base, s.base + n) for s, n in zip(slices, counts)]),
            keys=column("key"),
            timestamps=column("timestamp").to_numpy(),
            headers=headers,
        )


class LogSource(Source):
    """A table over one or more topics; a topic that is not there yet is made, empty."""

    def __init__(
        self, spec: TableSpec, decoder: RecordDecoder, open_store: Callable[[], LogStore], upsert: bool, clock: Clock
    ) -> None:
        self._spec = spec
        self._decoder = decoder
        self._open_store = open_store
        self._clock = clock
        self._startup = "earliest-offset" if upsert else read.required(spec.options, STARTUP_MODE)
        if spec.begin is not None and STARTUP_MODE.name not in spec.options:
            self._startup = "timestamp"
            self._spec = spec = replace(spec, options={**spec.options, STARTUP_TIME.name: str(spec.begin)})
        self._bounded = read.required(spec.options, BOUNDED_MODE)
        self._names = topics_of(spec)
        self._pattern = spec.options.get(TOPIC_PATTERN.name)
        check_topics(spec, reading=False)
        self.schema = decoder.schema
        self.changelog = decoder.changelog
        self.bounded = self._bounded != "unbounded"
        self._check()

    def _check(self) -> None:
        o = self._spec.options
        read.integer(o, PARTITIONS, 1)
        for mode, time, offsets in (
            (self._startup, STARTUP_TIME, STARTUP_OFFSETS),
            (self._bounded, BOUNDED_TIME, BOUNDED_OFFSETS),
        ):
            if mode == "timestamp":
                read.integer(o, time)
            if mode == "specific-offsets":
                specific_offsets(o, offsets)

    def reader(self, positions: Mapping[str, Position] | None) -> LogReader:
        check_topics(self._spec, reading=True)
        store = self._open_store()
        for name in self._names:
            store.create(name, read.integer(self._spec.options, PARTITIONS, 1))
        begin = self._offsets(store, self._startup, STARTUP_TIME, STARTUP_OFFSETS, missing=0)
        end = None
        if self.bounded:
            end = self._offsets(store, self._bounded, BOUNDED_TIME, BOUNDED_OFFSETS, missing=UNBOUNDED)
        return LogReader(store, self._decoder, self._topics(store), begin, end, positions, self._clock)

    def beginnings(self) -> dict[str, int | None]:
        store = self._open_store()
        removed = [
            (f"{topic}-{number}", topic, number, end.start, end.end)
            for topic in self._topics(store)()
            for number, end in enumerate(store.partitions(topic))
            if end.start > 0
        ]
        return {name: store.time_of(topic, p, start) if start < end else None for name, topic, p, start, end in removed}

    def rate(self, now: int) -> Rate | None:
        store = self._open_store()
        there = [t for t in self._topics(store)() if t in store.topics()]

        def bounds(place: tuple[str, int]) -> tuple[int, int]:
            end = store.partitions(place[0])[place[1]]
            return end.start, end.end

        return recent_rate(
            [(topic, number) for topic in there for number in range(len(store.partitions(topic)))],
            now // 1000,
            bounds,
            lambda p, millis: store.offset_at(*p, millis),
            lambda p: store.time_of(*p, bounds(p)[0]),
        )

    def _topics(self, store: LogStore) -> Callable[[], list[str]]:
        if self._names:
            return lambda: list(self._names)
        pattern = re.compile(self._pattern or "")
        return lambda: [t for t in store.topics() if pattern.fullmatch(t)]

    def _offsets(
        self, store: LogStore, mode: str, time: Option, offsets: Option, missing: int
    ) -> Callable[[str, int], int]:
        """What a startup or bounded mode means for each partition."""
        o = self._spec.options
        match mode:
            case "latest-offset":
                return lambda topic, partition: store.partitions(topic)[partition].end
            case "timestamp":
                timestamp = read.integer(o, time)
                return lambda topic, partition: store.offset_at(topic, partition, timestamp)
            case "specific-offsets":
                given = specific_offsets(o, offsets)
                return lambda topic, partition: given.get(partition, missing)
        return lambda topic, partition: store.partitions(topic)[partition].start
