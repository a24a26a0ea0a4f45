"""A running scan: one open reader, its positions, its watermark, and what it could not read.

A scan may be *catching up*: it belongs to a job that came late and reads from that job's own start up to where a shared
scan of the same table stands, never beyond; once both stand at the same positions the shared one takes its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.connector import Fetched, Position, Rate, Reader, Source
from forebay.engine.operators.base import MAX_WATERMARK
from forebay.engine.runtime.watermark import WatermarkSpec, WatermarkTracker

_LEAST = 60_000_000
"""µs of event time over which a rate may be measured."""


@dataclass(frozen=True, slots=True)
class ScanSpec:
    """What to read. `open` makes the source for the columns that are needed (None: all)."""

    table: str
    open: Callable[[frozenset[str] | None], Source]
    schema: pa.Schema
    """The source's schema; columns that nobody reads are NULL."""
    columns: frozenset[str] | None
    watermark: WatermarkSpec | None = None
    lineage: str = ""
    """Equal for scans that read the same records by the same options, whatever columns their table had at the time."""

    def grew_from(self, other: ScanSpec) -> bool:
        """Whether the other is of this table from before it got columns."""
        had, has = ({(f.name, f.type) for f in spec.schema} for spec in (other, self))
        return bool(self.lineage) and self.lineage == other.lineage and had < has


@dataclass(slots=True)
class ScanMetrics:
    records: int = 0
    rows: int = 0
    nbytes: int = 0
    dead: int = 0


class Scan:
    """An open scan, polled by the driver."""

    def __init__(self, spec: ScanSpec, now: int, saved: Mapping[str, Any] | None = None) -> None:
        """Open where the table's startup options say, or where a checkpoint's `save` left off."""
        self.spec = spec
        self.columns = spec.columns
        self.source = spec.open(spec.columns)
        self.reader: Reader = self.source.reader(None if saved is None else saved["positions"])
        self.metrics = ScanMetrics()
        self.tracker = WatermarkTracker(spec.watermark) if spec.watermark else None
        if self.tracker is not None and saved is not None:
            self.tracker.load(saved["watermark"], now)
        self.positions: dict[str, Position] = self.reader.positions()
        self.finished = False
        """The input itself has come to its end, and `take` has seen it."""
        self._limits: Mapping[str, Position] | None = None
        self._empty = False
        """The last poll brought nothing."""
        self._restored = saved is not None
        self._reading = threading.Lock()
        self._opened = now
        self._began: tuple[int, int] | None = None
        """(the first watermark, the rows until then)."""
        self._stale = False
        """The reader was replaced within this turn: what the turn's polls brought will be read again."""
        self._closed = False

    @property
    def bounded(self) -> bool:
        return self.source.bounded

    @property
    def untouched(self) -> bool:
        """It stands where its table starts: a newcomer misses nothing."""
        return not self._restored and self.metrics.records == 0

    def begin(self) -> None:
        """A turn begins: some `poll`s, then one `take` of all that they brought."""
        self._stale = False

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        """Read from outside; changes nothing that a checkpoint sees until `take`."""
        with self._reading:
            if self._closed or self._stale:
                return None
            got = self.reader.poll(max_rows, timeout)
            self._empty = got is None
            return got

    def behind(self) -> bool:
        """Whether there is more to read now."""
        return not self.finished and not (self._empty and not self.reader.lag())

    def take(self, fetched: Fetched | None, now: int) -> list[Batch]:
        """Account for what `poll` brought; returns the epoch's delta of the scan."""
        if self._stale or self._closed:
            return []
        self.positions = self.reader.positions()
        self.finished = self.at_end()
        if fetched is None:
            return []
        self.metrics.records += fetched.records
        self.metrics.nbytes += fetched.nbytes
        self.metrics.dead += len(fetched.dead)
        self.metrics.rows += fetched.batch.num_rows
        if fetched.batch.num_rows == 0:
            return []
        if self.tracker is not None:
            self.tracker.observe(fetched.batch.rows, fetched.split, len(self.reader.splits()), now)
            mark = self.watermark(now)
            if self._began is None and mark is not None:
                self._began = mark, self.metrics.rows
        return [fetched.batch]

    def rate(self, now: int) -> Rate | None:
        """Rows per second of event time so far, or of the clock where the table has no watermark; None: too few to tell."""
        if self.tracker is None:
            seconds = (now - self._opened) / 1e6
            return Rate(self.metrics.rows / seconds, f"rows read in {seconds:.0f} seconds") if seconds >= 1 else None
        mark = self.watermark(now)
        if self._began is None or mark is None or mark == MAX_WATERMARK or mark - self._began[0] < _LEAST:
            return None
        seconds, rows = (mark - self._began[0]) / 1e6, self.metrics.rows - self._began[1]
        return Rate(rows / seconds, f"{rows} rows read in {seconds / 3600:.1f} hours of event time")

    def at_end(self) -> bool:
        """Whether nothing will ever come again; a limit is no end."""
        return self.bounded and not self.catching_up and self.reader.finished()

    @property
    def catching_up(self) -> bool:
        """Whether it reads only up to where another scan goes on."""
        return self._limits is not None

    def limit(self, positions: Mapping[str, Position]) -> None:
        """Read up to these positions only: another scan goes on from there."""
        self._limits = positions
        self.reader.limit(positions)

    def unlimit(self) -> None:
        """Read on without end."""
        if self._limits is not None:
            self._limits = None
            self.reader.limit(None)

    def watermark(self, now: int) -> int | None:
        """The scan's watermark after `take`."""
        if self.tracker is None:
            return MAX_WATERMARK if self.finished else None
        return self.tracker.current(len(self.reader.splits()), self.finished, now)

    def widen(self, columns: frozenset[str] | None) -> None:
        """Read more columns from here on: a new reader continues at this one's positions."""
        if self.columns is None or (columns is not None and columns <= self.columns):
            return
        self.columns = None if columns is None else self.columns | columns
        with self._reading:
            self.reader.close()
            self.source = self.spec.open(self.columns)
            self.reader = self.source.reader(self.positions)
            if self._limits is not None:
                self.reader.limit(self._limits)
            self._stale = True

    def save(self) -> dict[str, Any]:
        """Positions and watermark as a JSON value."""
        return {"positions": self.positions, "watermark": self.tracker.save() if self.tracker else None}

    def close(self) -> None:
        with self._reading:
            if not self._closed:
                self._closed = True
                self.reader.close()
