"""Outlets: where a job's changes leave the dataflow. The outbox is the one for sinks.

An outlet buffers the open epoch, so that a failed epoch leaves no trace. The *outbox* of a sink is a queue of *segments*, one
per checkpoint interval; rows go to the sink as they come, on the sink's own thread, and a segment is committed under its
checkpoint's id once that checkpoint is durable. Until the sink has confirmed the id, the segment is kept (in a spool file
where the warehouse has a directory) and can be sent again under the same id. So any number of sinks agree, whatever the
instant of a crash, and a slow sink never holds back an epoch.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch, concat
from forebay.engine.connector import Sink
from forebay.engine.errors import ConnectorError, ForebayError, StateError
from forebay.engine.files import Files, declare, kill_point, lacks_space
from forebay.engine.runtime.retry import Retry

log = logging.getLogger("forebay")

declare(
    "outbox.seal.before",
    "outbox.seal.after",
    "outbox.confirm.before",
    "outbox.confirm.after",
    "outbox.opened.before",
    "outbox.opened.after",
)

QUEUE = 64 << 20
"""Bytes of rows that may wait in memory for a sink to take them."""

WEIGHT = "__weight"
"""Name of the weight column in spool files."""


class Outlet(ABC):
    """The end of a job. Called by the driver only."""

    @abstractmethod
    def take(self, batches: list[Batch], watermark: int | None, epoch: int) -> None:
        """Buffer the open epoch's changes."""

    @abstractmethod
    def commit(self) -> None:
        """The epoch is complete: hand its changes on."""

    @abstractmethod
    def rollback(self) -> None:
        """Forget the open epoch."""

    def close(self) -> None:  # noqa: B027 - optional by design
        """The job is gone."""


class StreamOutlet(Outlet):
    """Hands every epoch's batches to a callback: a continuous SELECT."""

    def __init__(self, deliver: Callable[[list[Batch]], None], end: Callable[[], None]) -> None:
        self._deliver = deliver
        self._end = end
        self._open: list[Batch] = []

    def take(self, batches: list[Batch], watermark: int | None, epoch: int) -> None:
        self._open.extend(batches)

    def commit(self) -> None:
        if self._open:
            self._deliver(self._open)
            self._open = []

    def rollback(self) -> None:
        self._open = []

    def close(self) -> None:
        self._end()


@dataclass(slots=True)
class Segment:
    """The changes of one checkpoint interval."""

    id: int
    batches: deque[Batch] = field(default_factory=deque)
    """What the sink has not taken yet (all of it, while nothing else keeps the rows)."""
    sent: list[Batch] = field(default_factory=list)
    """What the sink has taken; kept where there is no spool file to send again from."""
    nbytes: int = 0
    sealed: bool = False
    durable: bool = False
    unspooled: list[Batch] = field(default_factory=list)
    """What could not be written to the spool file: the disk is full. Its checkpoint writes it, or fails."""


@dataclass(frozen=True, slots=True)
class OutboxSpec:
    """A sink and where its outbox lies. `directory` None: in memory."""

    name: str
    open: Callable[[], Sink]
    schema: pa.Schema
    directory: Path | None = None
    files: Files = field(default_factory=Files)
    max_bytes: int = 1 << 30
    """Rows that the sink may owe before the job's sources wait."""


class Outbox(Outlet):
    """The outbox of one sink. The driver fills it; one `SinkRunner` drains it; `_lock` guards what they share."""

    def __init__(self, spec: OutboxSpec, next_id: int, restored: list[int] | None = None) -> None:
        """`next_id`: the id of the checkpoint that will end the current interval. `restored`: ids of the sealed
        segments that the checkpoint counted as unconfirmed, to be read back from the spool."""
        self.spec = spec
        self._open: list[Batch] = []
        self._lock = threading.Condition()
        self._segments: deque[Segment] = deque()
        self._queued = 0
        self.confirmed: int | None = None
        self.rows = 0
        self.error: Exception | None = None
        self.closed = False
        self.taken = 0
        """Bytes of rows that the sink has in memory, by its own account."""
        self.wake: Callable[[], None] = lambda: None
        if spec.directory is not None:
            spec.files.mkdir(spec.directory)
            self._load(restored or [])
        self._segments.append(Segment(next_id))

    # -- the driver's side --------------------------------------------------------------------------------------

    def take(self, batches: list[Batch], watermark: int | None, epoch: int) -> None:
        self._open.extend(batches)

    def commit(self) -> None:
        if not self._open:
            return
        batch = concat(self._open)
        self._open = []
        with self._lock:  # spool and queue together: `rewind` makes the one from the other
            segment = self._segments[-1]
            if self.spec.directory is not None:
                segment.unspooled.append(batch)
                self._spool(segment)
            segment.batches.append(batch)
            segment.nbytes += batch.rows.nbytes
            self._queued += batch.rows.nbytes
            self.rows += batch.num_rows
        self.wake()

    def _spool(self, segment: Segment, *, strictly: bool = False) -> None:
        """Write to the spool file what is not there; with `strictly` an error is the caller's."""
        try:
            while segment.unspooled:
                self.spec.files.append(self._path(segment.id), _frame(segment.unspooled[0]), sync=False)
                segment.unspooled.pop(0)
        except OSError as error:
            if strictly:
                raise
            if len(segment.unspooled) == 1:
                log.warning("outbox %s keeps rows in memory: %s", self.spec.name, error)

    def rollback(self) -> None:
        self._open = []

    def seal(self, checkpoint: int) -> None:
        """The checkpoint's cut: what was taken so far belongs to `checkpoint`, what follows to the next one."""
        with self._lock:
            assert self._segments[-1].id == checkpoint
            self._segments[-1].sealed = True
            self._segments.append(Segment(checkpoint + 1))

    def sync(self, checkpoint: int) -> None:
        """Make the files of sealed segments durable, before the checkpoint's manifest: more than one after a failed checkpoint.

        Raises:
            OSError: they are not.
        """
        if self.spec.directory is None:
            return
        kill_point("outbox.seal.before")
        with self._lock:
            sealed = [s for s in self._segments if s.id <= checkpoint and not s.durable]
            for segment in sealed:
                self._spool(segment, strictly=True)
        there = [path for s in sealed if self.spec.files.exists(path := self._path(s.id))]
        for path in there:
            self.spec.files.sync(path)
        if there:
            self.spec.files.sync_dir(self.spec.directory)
        kill_point("outbox.seal.after")

    def unconfirmed(self) -> list[int]:
        """Ids of sealed segments that the sink has not confirmed."""
        with self._lock:
            return [s.id for s in self._segments if s.sealed]

    def durable(self, checkpoint: int) -> None:
        """The checkpoint is durable: segments up to it may be committed."""
        with self._lock:
            for segment in self._segments:
                if segment.id <= checkpoint:
                    segment.durable = True
        self.wake()

    def unsealed(self) -> bool:
        """Whether rows came after the last cut."""
        with self._lock:
            return self._segments[-1].nbytes > 0

    @property
    def queued(self) -> int:
        """Bytes of rows that wait in memory for the sink to take them."""
        return self._queued

    def nbytes(self) -> int:
        """Bytes of rows that are not confirmed."""
        with self._lock:
            return sum(s.nbytes for s in self._segments)

    def held(self) -> int:
        """Bytes of memory: rows that are kept here, and those that the sink has taken and still has."""
        return self.taken + (self.nbytes() if self.spec.directory is None else self._queued)

    def full(self) -> bool:
        """The sink lags so far behind that its job's sources should wait."""
        with self._lock:
            unspooled = sum(b.rows.nbytes for s in self._segments for b in s.unspooled)
        return max(self._queued, unspooled) > QUEUE or self.nbytes() > self.spec.max_bytes

    def pending(self) -> list[Batch]:
        """The rows of the newest intervals that wait in memory, or are kept there to be sent again."""
        with self._lock:
            return [b for s in self._segments for b in (*s.sent, *s.batches)]

    def close(self) -> None:
        with self._lock:
            self.closed = True
        self.wake()

    # -- the sink's side ----------------------------------------------------------------------------------------

    def rewind(self) -> None:
        """Make every unconfirmed row unsent again: a new sink starts after the last confirmed id."""
        with self._lock:
            for segment in self._segments:
                if self.spec.directory is None:
                    segment.batches = deque([*segment.sent, *segment.batches])
                    segment.sent = []
                else:
                    segment.batches = deque([*self._read(segment.id), *segment.unspooled])
            self._queued = sum(b.rows.nbytes for s in self._segments for b in s.batches)

    def next_batch(self) -> Batch | None:
        """The next row batch to write, if it belongs to the oldest unconfirmed segment."""
        with self._lock:
            segment = self._segments[0]
            if not segment.batches:
                return None
            batch = segment.batches.popleft()
            self._queued -= batch.rows.nbytes
            if self.spec.directory is None:
                segment.sent.append(batch)
            return batch

    def next_commit(self) -> int | None:
        """The id to commit now: the oldest segment is all sent and durable."""
        with self._lock:
            segment = self._segments[0]
            return segment.id if segment.durable and not segment.batches else None

    def confirm(self, checkpoint: int) -> None:
        """The sink has made everything up to `checkpoint` visible; its segments may go."""
        if self.spec.directory is not None:
            kill_point("outbox.confirm.before")
            self._record({"confirmed": checkpoint})
            kill_point("outbox.confirm.after")
        with self._lock:
            done = []
            while self._segments and self._segments[0].sealed and self._segments[0].id <= checkpoint:
                done.append(self._segments.popleft())
            self.confirmed = checkpoint
        if self.spec.directory is not None:
            for segment in done:
                self.spec.files.remove(self._path(segment.id))

    def record(self) -> dict[str, Any]:
        """The local record: `confirmed` id and whether the sink was ever `opened`."""
        if self.spec.directory is None or not self.spec.files.exists(self.spec.directory / "record.json"):
            return {}
        loaded: dict[str, Any] = json.loads(self.spec.files.read(self.spec.directory / "record.json"))
        return loaded

    def opened(self) -> None:
        """Record that the sink exists and has a first committed id."""
        kill_point("outbox.opened.before")
        self._record({"opened": True})
        kill_point("outbox.opened.after")

    # -- files --------------------------------------------------------------------------------------------------

    def _record(self, change: dict[str, Any]) -> None:
        if self.spec.directory is None:
            return
        value = {**self.record(), **change}
        temporary = self.spec.directory / "record.tmp"
        self.spec.files.write(temporary, json.dumps(value).encode())
        self.spec.files.replace(temporary, self.spec.directory / "record.json")

    def _load(self, restored: list[int]) -> None:
        assert self.spec.directory is not None
        keep = {self._path(i).name for i in restored}
        for name in self.spec.files.list(self.spec.directory):
            if name.endswith(".spool") and name not in keep:
                self.spec.files.remove(self.spec.directory / name)
        for i in sorted(restored):
            self._segments.append(Segment(i, deque(self._read(i)), sealed=True, durable=True))
        self.confirmed = self.record().get("confirmed")

    def _path(self, segment: int) -> Path:
        assert self.spec.directory is not None
        return self.spec.directory / f"{segment:012d}.spool"

    def _read(self, segment: int) -> Iterator[Batch]:
        path = self._path(segment)
        if not self.spec.files.exists(path):
            return iter(())
        return _unframe(self.spec.files.read(path), self.spec.schema)


def _frame(batch: Batch) -> bytes:
    rows = batch.rows.append_column(WEIGHT, pa.array(batch.weight_array()))
    payload: bytes = rows.serialize().to_pybytes()
    return len(payload).to_bytes(8, "little") + payload


def _unframe(data: bytes, schema: pa.Schema) -> Iterator[Batch]:
    stored = schema.append(pa.field(WEIGHT, pa.int64()))
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        if at + 8 + size > len(data):
            return
        rows = pa.ipc.read_record_batch(pa.py_buffer(data[at + 8 : at + 8 + size]), stored)
        yield Batch(rows.select(schema.names), np.asarray(rows.column(len(schema))))
        at += 8 + size


class SinkRunner:
    """Drains one outbox into its sink. `step` does one piece of work; a thread or a simulator calls it."""

    RETRIES = 3

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.sink: Sink | None = None
        self._dirty = False
        self._failures = 0
        self.space = Retry(f"sink '{outbox.spec.name}'", "free space where it writes")
        """A full disk is waited for, however long."""
        self.restarts = 0
        self.draining = False
        """A thread of the driver calls `step`."""

    def step(self) -> bool:
        """Open, write, commit or flush once. False when there is nothing to do now, or it waits for room on a disk.

        Raises:
            ForebayError: the sink cannot go on (an error that a retry cannot mend, or too many in a row).
        """
        if self.space.waits(time.monotonic()):
            return False
        try:
            return self._work()
        except Exception as error:
            self._drop()
            if lacks_space(error):
                self.space.failed(error, time.monotonic())
                return False
            self._failures += 1
            self.restarts += 1
            lasting = isinstance(error, ForebayError) and not error.retryable
            if lasting or self._failures > self.RETRIES:
                self._failures = 0  # who calls again after this tries anew
                raise
            return True

    def _work(self) -> bool:
        if self.sink is None:
            self._open()
            return True
        batch = self.outbox.next_batch()
        if batch is not None:
            self.sink.write(batch)
            self.outbox.taken = self.sink.nbytes()
            self._dirty = True
            return True
        checkpoint = self.outbox.next_commit()
        if checkpoint is not None:
            self.sink.commit(checkpoint)
            self.outbox.confirm(checkpoint)
            self.outbox.taken = self.sink.nbytes()
            self._failures = 0
            self.space.succeeded()
            self._dirty = False
            return True
        if self._dirty:
            self.sink.flush()
            self.outbox.taken = self.sink.nbytes()
            self._dirty = False
            return True
        return False

    def _open(self) -> None:
        self.outbox.rewind()
        self.sink = self.outbox.spec.open()
        last = self.sink.recover()
        if last is not None:
            if self.outbox.unconfirmed() and self.outbox.unconfirmed()[0] <= last:
                self.outbox.confirm(last)
            return
        if not self.sink.remembers:
            return
        if self.outbox.record().get("opened"):
            raise StateError(
                f"sink '{self.outbox.spec.name}' has forgotten the last id it committed",
                detail="its committed offsets expired or were deleted; rows after the last checkpoint may or may not "
                "be visible there",
                hint="check the sink's last rows, then either drop the job and create it again, or restore the offsets",
            )
        self.sink.commit(0)
        self.outbox.opened()

    def _drop(self) -> None:
        sink, self.sink = self.sink, None
        self.outbox.taken = 0
        self._dirty = False
        if sink is not None:
            try:
                sink.close()
            except ConnectorError as error:
                self.outbox.error = error

    def close(self) -> None:
        """Close the sink; what is not committed stays in the outbox."""
        self._drop()
