"""Polling: what is new in the sources, taken together for up to a latency, in batches that fit the budget.

A source that cannot be read is left alone for a while, twice as long each time. When that does not help, or cannot, it has
*failed*.

Polling happens outside the driver's lock, so that waiting for input never makes a caller wait. It may begin in the middle of an
epoch, in a thread of its own, once the epoch has taken what the last poll brought.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from forebay.engine.connector import Fetched, merge
from forebay.engine.errors import ConnectorError
from forebay.engine.files import Clock
from forebay.engine.runtime.alignment import ahead, aligned
from forebay.engine.runtime.budget import Budget
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.options import DriverOptions

log = logging.getLogger("forebay")
Polled = dict[str, Fetched | None]


class Polling:
    """Polls scans for one driver."""

    def __init__(self, clock: Clock, budget: Budget, batch: int, failed: Callable[[Node, Exception], None]) -> None:
        """`batch`: rows of the first poll. `failed` is told of a scan whose source has failed."""
        self._clock = clock
        self._budget = budget
        self._batch = batch
        self._failed = failed
        self._failures: dict[str, int] = {}
        self._after: dict[str, float] = {}
        self._reader: ThreadPoolExecutor | None = None
        self._coming: Future[Polled] | None = None

    def begin(self, scans: Sequence[Node], options: DriverOptions, hurried: Callable[[], bool]) -> None:
        """Begin the next `poll` in another thread."""
        self._reader = self._reader or ThreadPoolExecutor(1, "forebay-reader")
        self._coming = self._reader.submit(self._poll, scans, options, hurried)

    def poll(self, scans: Sequence[Node], options: DriverOptions, hurried: Callable[[], bool]) -> Polled:
        """Poll every scan at least once; wait for more rows while there are few, and nobody is `hurried`. By node id.

        What was begun is enough if it brought anything.
        """
        coming, self._coming = self._coming, None
        came = coming.result() if coming is not None else {}
        return came if any(came.values()) else self._poll(scans, options, hurried)

    def close(self) -> None:
        """Nobody will poll again; what was begun is not wanted."""
        self._coming = None
        if self._reader is not None:
            self._reader.shutdown()
            self._reader = None

    def _poll(self, scans: Sequence[Node], options: DriverOptions, hurried: Callable[[], bool]) -> Polled:
        for node in scans:
            assert node.scan is not None
            node.scan.begin()
        fetched: dict[str, list[Fetched]] = {}
        polled: set[str] = set()
        waiting = ahead(scans)
        deadline = self._clock.monotonic() + options.latency
        while True:
            tried = False
            for node in scans:
                if node.id in waiting or len(fetched.get(node.id, ())) >= (1 if aligned(node) else 64):
                    continue
                if self._after.get(node.id, 0) > self._clock.monotonic():
                    continue
                tried = True
                got = self._poll_one(node, options)
                polled.add(node.id)
                if got is not None:
                    fetched.setdefault(node.id, []).append(got)
            rows = sum(f.batch.num_rows for parts in fetched.values() for f in parts)
            if not fetched or not tried or rows >= options.small or hurried():
                break
            if self._clock.monotonic() >= deadline or all(n.scan is None or n.scan.reader.finished() for n in scans):
                break
            self._clock.sleep(0.002)
        batches = [f.batch.rows for parts in fetched.values() for f in parts]
        full = any(rows.num_rows >= self._batch for rows in batches)
        self._batch = self._backlog(batches, options) if full else options.batch
        return {i: merge(fetched.get(i, [])) for i in polled}

    def _backlog(self, batches: list[pa.RecordBatch], options: DriverOptions) -> int:
        """Rows of the next poll while catching up, given what this one brought: fewer if they are wide for the budget."""
        width = max(int(b.nbytes) // b.num_rows for b in batches if b.num_rows)
        rows: int = self._budget.epoch // max(width, 1)
        return max(options.small, min(options.backlog, rows))

    def _poll_one(self, node: Node, options: DriverOptions) -> Fetched | None:
        assert node.scan is not None
        try:
            got: Fetched | None = node.scan.poll(self._batch, 0.0)
            self._failures.pop(node.id, None)
            return got
        except Exception as error:  # noqa: BLE001 - a source's failure is its jobs' failure
            self._try_later(node, error, options)
            return None

    def _try_later(self, node: Node, error: Exception, options: DriverOptions) -> None:
        failures = self._failures[node.id] = self._failures.get(node.id, 0) + 1
        mendable = isinstance(error, ConnectorError) and error.retryable
        log.warning("source %s cannot be read: %s", node.label, error)
        self._after[node.id] = self._clock.monotonic() + options.backoff * 2 ** min(failures, 6)
        if not mendable or failures > options.restarts:
            self._failed(node, error)
