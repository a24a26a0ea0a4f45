"""The embedded log of a warehouse: topics of partitions of records, with atomic appends across all of them.

    topics/commits-<n>.log            commit frames: what is visible, and the last id of every sink
    topics/<topic>/<partition>/<base offset>.log   segments of data frames

An append writes data frames behind the visible end of its partitions, syncs them, and then appends *one* commit frame with
the new ends (and, for a sink, the checkpoint's id): that frame is the only point where anything becomes visible, in all
partitions and topics at once. Bytes beyond a visible end are leftovers of a crash; the next append to the partition cuts
them. Writers of any process take turns under a file lock; readers take none, they follow the commit file. The commit file
is rewritten as one snapshot under the next number when it has grown. The scheme is that of a redo log with deferred
visibility (Gray, Reuter, "Transaction Processing", ch. 9); offsets are contiguous and never reused for other data.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import pyarrow as pa

from forebay.connectors.topiclog.frames import (
    DataFrame,
    commit_frames,
    data_frame,
    frame,
    read_head,
    read_rows,
)
from forebay.connectors.topiclog.memory import MemoryFiles
from forebay.engine.connector import MEMORY
from forebay.engine.errors import ConnectorError, OptionError
from forebay.engine.files import Clock, Files, declare, kill_point

declare(
    "topiclog.data.before",
    "topiclog.data.after",
    "topiclog.data.synced",
    "topiclog.commit.before",
    "topiclog.commit.after",
    "topiclog.compact.before",
    "topiclog.compact.after",
    "topiclog.retain.before",
    "topiclog.retain.after",
)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
FRAME_ROWS = 8192
POLL_SECONDS = 0.01
"""How often a waiting reader looks for commits of other processes."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Sizes of the log's files."""

    segment_bytes: int = 64 << 20
    """A segment is closed at the first commit beyond this size. Retention removes whole segments."""
    commit_bytes: int = 1 << 20
    """The commit file is rewritten beyond this size."""


@dataclass(frozen=True, slots=True)
class PartitionEnd:
    """The visible part of a partition."""

    start: int = 0
    """First offset that is kept."""
    end: int = 0
    """Offset of the next record."""
    segment: int = 0
    """Base offset of the segment that is appended to."""
    size: int = 0
    """Visible bytes of that segment."""


@dataclass(frozen=True, slots=True)
class SinkMark:
    """What the log remembers of a sink."""

    epoch: int = 0
    """Raised by every new owner; an older one is fenced."""
    checkpoint: int | None = None
    """The last id that is committed."""


@dataclass(slots=True)
class State:
    """Everything that is visible at one commit."""

    topics: dict[str, list[PartitionEnd]] = field(default_factory=dict)
    sinks: dict[str, SinkMark] = field(default_factory=dict)

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Take over a commit frame's changes."""
        for topic, partitions in entry.get("topics", {}).items():
            ends = self.topics.setdefault(topic, [])
            for number, values in sorted((int(p), v) for p, v in partitions.items()):
                if number == len(ends):
                    ends.append(PartitionEnd())
                ends[number] = PartitionEnd(*values)
        for sink, (epoch, checkpoint) in entry.get("sinks", {}).items():
            self.sinks[sink] = SinkMark(epoch, checkpoint)

    def entry(self) -> dict[str, Any]:
        """The commit frame that makes this state out of an empty one."""
        return {
            "topics": {t: {str(p): _values(e) for p, e in enumerate(ends)} for t, ends in self.topics.items()},
            "sinks": {s: [m.epoch, m.checkpoint] for s, m in self.sinks.items()},
        }


def _values(end: PartitionEnd) -> list[int]:
    return [end.start, end.end, end.segment, end.size]


Rows = Mapping[tuple[str, int], pa.RecordBatch]
"""Records (schema PLAIN or FULL) by topic and partition."""


class LogStore:
    """The log in one directory. One object per directory and process (see `open_store`); safe to share by threads."""

    def __init__(self, directory: Path, files: Files, options: StoreOptions | None = None) -> None:
        self.directory = directory
        self.files = files
        self.options = options or StoreOptions()
        self._changed = threading.Condition()
        self._writing = threading.RLock()
        self._state = State()
        self._number = 0
        self._read = 0  # bytes of the current commit file that are in _state
        files.mkdir(directory)
        self.refresh()

    # -- what is visible ----------------------------------------------------------------------------------------

    def refresh(self) -> State:
        """The state after the newest commit of any process."""
        with self._changed:
            while not self._follow():
                pass
            return self._state

    def _follow(self) -> bool:
        """Read what is new in the commit file; False if another writer has just replaced the file."""
        if self._number == 0 or self.files.exists(self._commit_file(self._number + 1)):
            numbers = [int(n[8:-4]) for n in self.files.list(self.directory) if re.fullmatch(r"commits-\d+\.log", n)]
            if not numbers:
                return True
            self._number, self._read, self._state = max(numbers), 0, State()
        path = self._commit_file(self._number)
        try:
            size = self.files.size(path)
            data = self.files.read_at(path, self._read, size - self._read) if size > self._read else b""
        except FileNotFoundError:  # replaced more than once since the last look
            self._number = 0
            return False
        for payload, end in commit_frames(data, path, self._read):
            self._state.apply(json.loads(payload))
            self._read = end
        if data:
            self._changed.notify_all()
        return True

    def wait(self, timeout: float) -> None:
        """Sleep until a commit of this process, or one poll interval for those of others, or the timeout."""
        with self._changed:
            self._changed.wait(min(timeout, POLL_SECONDS))

    def topics(self) -> list[str]:
        """Names of the topics, sorted."""
        return sorted(self.refresh().topics)

    def partitions(self, topic: str) -> list[PartitionEnd]:
        """The partitions of a topic as they stand; empty if there is none of that name."""
        state = self.refresh()
        with self._changed:
            return list(state.topics.get(topic, ()))

    # -- reading ------------------------------------------------------------------------------------------------

    def segments(self, topic: str, partition: int) -> list[int]:
        """Base offsets of the segment files, ascending."""
        names = self.files.list(self._partition(topic, partition))
        return [int(n[:-4]) for n in names if n.endswith(".log")]

    def locate(self, topic: str, partition: int, offset: int) -> tuple[int, int]:
        """(segment, byte) of the frame that holds the visible record `offset`, or of the end."""
        end = self.partitions(topic)[partition]
        if offset >= end.end:
            return end.segment, end.size
        bases = [b for b in self.segments(topic, partition) if b <= min(offset, end.segment)]
        if not bases or offset < end.start:
            raise retired(topic, partition, offset, end.start)
        for head in self.heads(topic, partition, bases[-1]):
            if offset < head.base + head.count:
                return bases[-1], head.position
        raise ConnectorError(f"log '{topic}-{partition}' has no offset {offset}", retryable=False)

    def heads(self, topic: str, partition: int, segment: int) -> Iterator[DataFrame]:
        """The visible frames of a segment."""
        end = self.partitions(topic)[partition]
        path = self.segment_file(topic, partition, segment)
        position = 0
        size = end.size if segment == end.segment else self.files.size(path)
        while position < size:
            head = read_head(self.files, path, position)
            yield head
            position = head.stop

    def offset_at(self, topic: str, partition: int, timestamp: int) -> int:
        """The first offset whose record is not older than `timestamp` (ms since 1970), or the end."""
        end = self.partitions(topic)[partition]
        for segment in self.segments(topic, partition):
            if segment > end.segment:
                break
            for head in self.heads(topic, partition, segment):
                if head.latest >= timestamp:
                    rows = read_rows(self.files, self.segment_file(topic, partition, segment), head)
                    late = (rows.column("timestamp").to_numpy() >= timestamp).nonzero()[0]
                    return head.base + int(late[0])
        return end.end

    def time_of(self, topic: str, partition: int, offset: int) -> int:
        """The timestamp (ms since 1970) of a visible record."""
        segment, position = self.locate(topic, partition, offset)
        path = self.segment_file(topic, partition, segment)
        head = read_head(self.files, path, position)
        return int(read_rows(self.files, path, head).column("timestamp")[offset - head.base].as_py())

    # -- writing ------------------------------------------------------------------------------------------------

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic, or give it more partitions; never fewer.

        Raises:
            OptionError: the name cannot be a topic's.
        """
        if not _NAME.fullmatch(topic) or topic in (".", ".."):
            raise OptionError(f"'{topic}' cannot be the name of a topic", hint="use letters, digits, '.', '_' and '-'")
        if len(self.partitions(topic)) >= partitions:
            return
        with self._turn() as state:
            have = len(state.topics.get(topic, ()))
            new = {str(p): _values(PartitionEnd()) for p in range(have, partitions)}
            if new:
                self._commit({"topics": {topic: new}})

    def fence(self, sink: str) -> SinkMark:
        """Become the owner of a sink's mark; earlier owners can commit no more."""
        with self._turn() as state:
            old = state.sinks.get(sink, SinkMark())
            mark = replace(old, epoch=old.epoch + 1)
            self._commit({"sinks": {sink: [mark.epoch, mark.checkpoint]}})
            return mark

    def append(self, rows: Rows, sink: str | None = None, mark: SinkMark | None = None) -> None:
        """Append records to partitions that exist, visible all at once when this returns; with the sink's mark, if given.

        Raises:
            ConnectorError: another owner has fenced the sink.
        """
        with self._turn() as state:
            if sink is not None and mark is not None and state.sinks.get(sink, SinkMark()).epoch != mark.epoch:
                raise ConnectorError(
                    f"sink '{sink}' was taken over by another writer", retryable=False, hint="stop one of the two jobs"
                )
            entry: dict[str, Any] = {"topics": {}}
            for (topic, partition), batch in rows.items():
                if batch.num_rows:
                    end = self._write(topic, partition, state.topics[topic][partition], batch)
                    entry["topics"].setdefault(topic, {})[str(partition)] = _values(end)
            self._sync(entry["topics"])
            if sink is not None and mark is not None:
                entry["sinks"] = {sink: [mark.epoch, mark.checkpoint]}
            self._commit(entry)

    def _write(self, topic: str, partition: int, end: PartitionEnd, rows: pa.RecordBatch) -> PartitionEnd:
        """Write data frames behind the visible end, not synced; returns the end that a commit may show."""
        directory = self._partition(topic, partition)
        self.files.mkdir(directory)
        path = self._clear_leftovers(topic, partition, end)
        segment, size = end.segment, end.size
        if size >= self.options.segment_bytes:
            segment, size = end.end, 0
            path = self.segment_file(topic, partition, segment)
        starts = range(0, rows.num_rows, FRAME_ROWS)
        data = b"".join(data_frame(end.end + i, rows.slice(i, FRAME_ROWS)) for i in starts)
        kill_point("topiclog.data.before")
        size = self.files.append(path, data, sync=False)
        kill_point("topiclog.data.after")
        return PartitionEnd(end.start, end.end + rows.num_rows, segment, size)

    def _clear_leftovers(self, topic: str, partition: int, end: PartitionEnd) -> Path:
        """Cut what a crashed append left behind the visible end; returns the active segment's file."""
        for segment in self.segments(topic, partition):
            if segment > end.segment:
                self.files.remove(self.segment_file(topic, partition, segment))
        path = self.segment_file(topic, partition, end.segment)
        if self.files.exists(path) and self.files.size(path) > end.size:
            self.files.truncate(path, end.size)
        return path

    def _sync(self, topics: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
        for topic, partitions in topics.items():
            for partition, (_, _, segment, _) in partitions.items():
                self.files.sync(self.segment_file(topic, int(partition), segment))
                self.files.sync_dir(self._partition(topic, int(partition)))
            self.files.sync_dir(self.directory / topic)
        if topics:
            self.files.sync_dir(self.directory)
            kill_point("topiclog.data.synced")

    def retain(self, topic: str, before: int | None, max_bytes: int | None) -> None:
        """Remove closed segments whose records are all older than `before` (ms since 1970), or beyond `max_bytes` in
        each partition. Their offsets are gone for good; the file that is appended to always stays."""
        with self._turn() as state:
            new: dict[str, list[int]] = {}
            gone: list[Path] = []
            for partition, end in enumerate(state.topics.get(topic, ())):
                keep = self._first_kept(topic, partition, end, before, max_bytes)
                if keep > end.start:
                    new[str(partition)] = _values(replace(end, start=keep))
                    bases = self.segments(topic, partition)
                    gone += [self.segment_file(topic, partition, b) for b in bases if b < keep]
            if not new:
                return
            self._commit({"topics": {topic: new}})
            kill_point("topiclog.retain.before")
            for path in gone:
                self.files.remove(path)
            kill_point("topiclog.retain.after")

    def _first_kept(
        self, topic: str, partition: int, end: PartitionEnd, before: int | None, max_bytes: int | None
    ) -> int:
        bases = [b for b in self.segments(topic, partition) if b <= end.segment]
        sizes = [self.files.size(self.segment_file(topic, partition, b)) for b in bases]
        keep = 0
        while keep < len(bases) - 1:
            over = max_bytes is not None and sum(sizes[keep:]) > max_bytes
            old = before is not None and all(h.latest < before for h in self.heads(topic, partition, bases[keep]))
            if not over and not old:
                break
            keep += 1
        return bases[keep] if bases else end.start

    # -- the commit file ----------------------------------------------------------------------------------------

    @contextmanager
    def _turn(self) -> Iterator[State]:
        """Be the only writer, of all threads and processes; yields the newest state."""
        with self._writing, self.files_lock():
            state = self.refresh()
            if self._number and self.files.size(self._commit_file(self._number)) > self._read:
                self.files.truncate(self._commit_file(self._number), self._read)  # a torn tail
            yield state

    @contextmanager
    def files_lock(self) -> Iterator[None]:
        """Keep writers of other processes out; nothing to do where the files are private to this process."""
        if isinstance(self.files, MemoryFiles):
            yield
            return
        fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _commit(self, entry: Mapping[str, Any]) -> None:
        """Append a commit frame, durable when this returns, and show it to this process's readers."""
        kill_point("topiclog.commit.before")
        if self._number == 0:
            self._snapshot(1, frame(b"{}"))
        path = self._commit_file(self._number)
        size = self.files.append(path, frame(json.dumps(entry).encode()), sync=True)
        kill_point("topiclog.commit.after")
        state = self.refresh()
        if size > self.options.commit_bytes:
            snapshot = frame(json.dumps(state.entry()).encode())
            if size > 4 * len(snapshot):  # else the state itself is large, and rewriting it each time gains nothing
                self._snapshot(self._number + 1, snapshot)

    def _snapshot(self, number: int, snapshot: bytes) -> None:
        """Begin a commit file with a whole state, and drop the one before."""
        kill_point("topiclog.compact.before")
        temporary = self.directory / f".commits-{number}.tmp"
        self.files.write(temporary, snapshot)
        self.files.replace(temporary, self._commit_file(number))
        kill_point("topiclog.compact.after")
        self.refresh()
        if number > 1:
            self.files.remove(self._commit_file(number - 1))

    def _commit_file(self, number: int) -> Path:
        return self.directory / f"commits-{number:08d}.log"

    def _partition(self, topic: str, partition: int) -> Path:
        return self.directory / topic / str(partition)

    def segment_file(self, topic: str, partition: int, base: int) -> Path:
        """The file of a segment."""
        return self._partition(topic, partition) / f"{base:020d}.log"


def retired(topic: str, partition: int, offset: int, start: int) -> ConnectorError:
    """The error for an offset that retention has removed: told, never skipped silently."""
    return ConnectorError(
        f"offset {offset} of log '{topic}-{partition}' was removed by retention",
        retryable=False,
        detail=f"the first offset that is kept is {start}",
        hint="keep records longer ('retention.ms', 'retention.bytes'), or start the job anew at 'earliest-offset'",
    )


_stores: WeakValueDictionary[tuple[int, str], LogStore] = WeakValueDictionary()
_stores_lock = threading.Lock()
_memory = MemoryFiles()
_DISK = Files()


def open_store(warehouse: str | None, files: Files | None = None) -> LogStore:
    """The log of a warehouse directory, or in memory: of the warehouse ':memory:...' or, for None, of the process."""
    in_memory = warehouse is None or warehouse.startswith(MEMORY)
    if files is None:
        files = _memory if in_memory else _DISK
    directory = (Path("/memory") / (warehouse or "") if in_memory else Path(warehouse or "")) / "topics"
    key = (id(files), str(directory.absolute()))
    with _stores_lock:
        store = _stores.get(key)
        if store is None or store.files is not files or not files.exists(directory):
            store = _stores[key] = LogStore(directory, files)
        return store


def forget_memory(warehouse: str | None = None) -> None:
    """Drop the topics in memory of a warehouse that is closed, or of all."""
    directory = Path("/memory") / (warehouse or "")
    with _stores_lock:
        _memory.clear(directory)
        for key, store in list(_stores.items()):
            if store.files is _memory and directory in (Path(key[1]), *Path(key[1]).parents):
                del _stores[key]


def now_ms(clock: Clock) -> int:
    """Wall-clock time in ms since 1970."""
    return clock.now() // 1000
