"""Epochs of one dataflow, one at a time, and what stands between two of them.

An *epoch* carries what has come through every operator, whole or not at all. Everything that looks at the dataflow or changes it
does so at a *boundary*, between two epochs, and holds `lock` for it: the driver for an epoch, a caller (attach, DML, snapshot)
for its own work. So nobody ever sees half an epoch, and a failure in one leaves all others where it was before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from forebay.engine.batch import Batch
from forebay.engine.connector import Fetched
from forebay.engine.files import Clock
from forebay.engine.runtime.budget import Budget
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.dmllog import DmlLog
from forebay.engine.runtime.job import Job
from forebay.engine.runtime.notes import Notes
from forebay.engine.runtime.options import DriverOptions
from forebay.engine.runtime.steady import SteadyTime
from forebay.engine.state.coldstore import ColdStore

log = logging.getLogger("forebay")


class Epochs:
    """A dataflow, its jobs, and the lock that they are under."""

    def __init__(
        self, clock: Clock, options: DriverOptions, dml: DmlLog | None, now_cell: Callable[[int], None], cold: ColdStore
    ) -> None:
        self.cold = cold
        self.flow = Dataflow(cold)
        self.budget = Budget(cold)
        self.clock = clock
        self.time = SteadyTime(clock)
        self.options = options
        self.dml = dml
        self.jobs: dict[str, Job] = {}
        self.notes = Notes()
        self.fatal: Exception | None = None
        """What stopped everything."""
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        """Told whenever there may be something that others wait for."""
        self.callers = 0
        """How many wait for a boundary."""
        self.awake = threading.Event()
        """Set when there is something to do before input comes."""
        self._set_now = now_cell
        self._pending: dict[str, list[Batch]] = {}

    @contextmanager
    def boundary(self) -> Iterator[Dataflow]:
        """Hold the dataflow at an epoch boundary. The driver lets callers go first."""
        self.callers += 1
        try:
            self.lock.acquire()
        finally:
            self.callers -= 1
        try:
            yield self.flow
        finally:
            self.changed.notify_all()
            self.lock.release()
            self.awake.set()

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Block until `done()` at an epoch boundary; False after `timeout` seconds.

        Raises:
            Exception: what stopped the driver.
        """
        deadline = None if timeout is None else self.clock.monotonic() + timeout
        with self.changed:
            while not done():
                if self.fatal is not None:
                    raise self.fatal
                left = None if deadline is None else deadline - self.clock.monotonic()
                if left is not None and left <= 0:
                    return False
                self.changed.wait(0.1 if left is None else min(left, 0.1))
            return True

    def feed(self, relation: str, batch: Batch, *, log_it: bool = True) -> dict[str, Exception]:
        """Apply a change to an embedded table: durable, then applied and shown in one epoch.

        Returns the jobs that failed on it.

        Raises:
            StateError: it cannot be made durable, and is not made.
            Exception: the table cannot take it (its cold rows are damaged). The log has it, so the driver stops.
        """
        with self.boundary():
            if self.fatal is not None:
                raise self.fatal
            if log_it and self.dml is not None:
                self.dml.append(relation, batch)
            try:
                failed = self._run({}, {f"relation/{relation}": [batch]})
                self._run_pending()
            except Exception as error:
                self.stop_for(error)
                raise
            return failed

    def queue(self, relation: str, batches: list[Batch]) -> None:
        """Changes that a job makes to an embedded table; applied in the next epoch."""
        self._pending.setdefault(f"relation/{relation}", []).extend(batches)

    def _run_pending(self) -> None:
        while self._pending:
            fed, self._pending = self._pending, {}
            self._run({}, fed)

    def _run(self, fetched: Mapping[str, Fetched | None], fed: Mapping[str, list[Batch]]) -> dict[str, Exception]:
        """One epoch, and then room for the next; returns the jobs that failed in it."""
        failed = self.flow.run_epoch(fetched, fed, self._tick())
        self._note_failures(failed)
        rows = sum(f.batch.num_rows for f in fetched.values() if f is not None)
        overrun = self.budget.keep(self.flow, rows + sum(b.num_rows for batches in fed.values() for b in batches))
        if overrun is not None:
            self.flow.fail(overrun.jobs, overrun.error, self._tick())
            for name in overrun.jobs & self.jobs.keys():
                self.jobs[name].give_up(overrun.error)
        return failed

    def _tick(self) -> int:
        """The epoch's processing time; functions such as NOW() show the clock as it is."""
        self._set_now(self.clock.now())
        return self.time.now()

    def _note_failures(self, failed: Mapping[str, Exception]) -> None:
        for name, error in failed.items():
            if name in self.jobs:
                self.jobs[name].fail(error, self.options, self.clock.monotonic())

    def _note_of(self, table: str, fetched: Fetched) -> None:
        self.notes.take(table, fetched, self.options.dead_letters)

    def stop_for(self, error: Exception) -> None:
        """Nothing can go on; whoever waits gets the error."""
        log.error("the driver stops", exc_info=error)
        with self.changed:
            self.fatal = error
            self.changed.notify_all()
