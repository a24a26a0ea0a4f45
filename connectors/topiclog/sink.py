"""Writing the embedded log: rows become visible in all partitions and topics at once, with the checkpoint's id.

Rows wait in memory until `commit` ('exactly-once') or `flush` ('at-least-once'): the engine's outbox keeps them durably.
One commit frame of the log shows the rows and records the id, so a replay after any crash can tell what is done.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.connectors.records import HEADERS, Encoded, RecordEncoder
from forebay.connectors.topiclog.frames import FULL, PLAIN
from forebay.connectors.topiclog.store import LogStore, SinkMark
from forebay.engine.batch import Batch
from forebay.engine.connector import Sink
from forebay.engine.errors import ConnectorError, DataError
from forebay.engine.files import Clock

RETENTION_CHECK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LogSinkSpec:
    """What a sink writes to, and how."""

    name: str
    """Under which the log remembers its checkpoints."""
    topic: str | None
    """None: every row names its topic."""
    partitions: int
    exactly_once: bool
    partitioner: str
    retention_ms: int | None
    retention_bytes: int | None


class LogSink(Sink):
    """One writer of the log."""

    def __init__(
        self, spec: LogSinkSpec, encoder: RecordEncoder, open_store: Callable[[], LogStore], clock: Clock
    ) -> None:
        self._spec = spec
        self._encoder = encoder
        self._open_store = open_store
        self._clock = clock
        self._store: LogStore | None = None
        self._mark = SinkMark()
        self._staged: dict[tuple[str, int], list[pa.RecordBatch]] = {}
        self._next = 0
        self._retained = clock.monotonic()

    def recover(self) -> int | None:
        self._store = self._open_store()
        if self._spec.topic is not None:
            self._store.create(self._spec.topic, self._spec.partitions)
        self._mark = self._store.fence(self._spec.name)
        return self._mark.checkpoint

    def write(self, batch: Batch) -> None:
        encoded = self._encoder.encode(batch)
        if not len(encoded):
            return
        rows = self._columns(encoded)
        for topic, at in self._by_topic(encoded):
            mine = rows if at is None else rows.take(pa.array(at))
            for partition, part in self._by_partition(topic, mine, encoded.keys is not None):
                self._staged.setdefault((topic, partition), []).append(part)

    def _columns(self, encoded: Encoded) -> pa.RecordBatch:
        now = self._clock.now() // 1000
        times = np.full(len(encoded), now) if encoded.timestamps is None else encoded.timestamps
        keys = pa.nulls(len(encoded), pa.binary()) if encoded.keys is None else encoded.keys
        columns = [pa.array(np.where(times < 0, now, times)), keys, encoded.values]
        if encoded.headers is None:
            return pa.RecordBatch.from_arrays(columns, schema=PLAIN)
        return pa.RecordBatch.from_arrays([*columns, encoded.headers.cast(HEADERS)], schema=FULL)

    def _by_topic(self, encoded: Encoded) -> list[tuple[str, npt.NDArray[np.int64] | None]]:
        """Topics with the rows that go there; None: all rows."""
        default = self._spec.topic
        if encoded.topics is None:
            if default is None:
                raise DataError("the table names no topic", hint="give option 'topic'")
            return [(default, None)]
        topics = encoded.topics if default is None else encoded.topics.fill_null(default)
        if topics.null_count:
            raise DataError("a row names no topic", hint="fill the metadata column 'topic', or give option 'topic'")
        coded = topics.dictionary_encode()
        codes = coded.indices.to_numpy()
        return [(str(name), np.flatnonzero(codes == code)) for code, name in enumerate(coded.dictionary.to_pylist())]

    def _by_partition(self, topic: str, rows: pa.RecordBatch, keyed: bool) -> list[tuple[int, pa.RecordBatch]]:
        """The rows of each partition, in their order."""
        store = self._opened()
        store.create(topic, self._spec.partitions)
        count = len(store.partitions(topic))
        if count == 1 or self._spec.partitioner == "fixed":
            return [(0, rows)]
        if self._spec.partitioner == "round-robin":
            target = (np.arange(rows.num_rows) + self._next) % count
            self._next += rows.num_rows
        elif keyed:
            keys = rows.column("key").fill_null(b"").to_pylist()
            target = np.fromiter(map(zlib.crc32, keys), np.int64, len(keys)) % count
        else:
            self._next += 1
            return [(self._next % count, rows)]
        return [(p, rows.take(pa.array(np.flatnonzero(target == p)))) for p in np.unique(target).tolist()]

    def flush(self) -> None:
        if not self._spec.exactly_once and self._staged:
            self._append(self._mark)

    def commit(self, checkpoint: int) -> None:
        self._append(replace(self._mark, checkpoint=checkpoint))

    def _append(self, mark: SinkMark) -> None:
        store = self._opened()
        rows = {where: pa.concat_batches(_alike(parts)) for where, parts in self._staged.items()}
        store.append(rows, self._spec.name, mark)
        self._staged = {}
        self._mark = mark
        self._retain(store, sorted({topic for topic, _ in rows}))

    def _retain(self, store: LogStore, topics: list[str]) -> None:
        ms, most = self._spec.retention_ms, self._spec.retention_bytes
        due = self._clock.monotonic() - self._retained >= RETENTION_CHECK_SECONDS
        if not due or (ms is None and most is None):
            return
        self._retained = self._clock.monotonic()
        for topic in topics:
            store.retain(topic, None if ms is None else self._clock.now() // 1000 - ms, most)

    def _opened(self) -> LogStore:
        if self._store is None:
            raise ConnectorError(f"sink '{self._spec.name}' is not open", retryable=False, hint="call recover() first")
        return self._store


def _alike(parts: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The batches with one schema: with headers if any has them."""
    if all(p.schema.equals(PLAIN) for p in parts):
        return parts
    return [
        p
        if p.schema.equals(FULL)
        else pa.RecordBatch.from_arrays([*p.columns, pa.nulls(p.num_rows, HEADERS)], schema=FULL)
        for p in parts
    ]
