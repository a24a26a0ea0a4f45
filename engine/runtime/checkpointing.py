"""Checkpoints of a running dataflow: cut between two epochs, written behind its back, and kept for savepoints.

A *cut* notes positions, the changes of all states and what sinks have not confirmed, at one boundary; a writer makes it durable
while epochs go on. One is under way at a time. One that fails is tried again, and the next has what it had. Nothing that
a kept checkpoint needs goes before a later one is durable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from forebay.engine.errors import StateError
from forebay.engine.files import Clock
from forebay.engine.runtime.checkpoint import Capture, CheckpointStore
from forebay.engine.runtime.dmllog import DmlLog
from forebay.engine.runtime.epochs import Epochs
from forebay.engine.runtime.job import Status
from forebay.engine.runtime.options import DriverOptions
from forebay.engine.runtime.outbox import Outbox
from forebay.engine.runtime.retry import Retry
from forebay.engine.state.coldstore import ColdStore


class Checkpointing(Epochs):
    """Epochs with checkpoints between them. Without a store nothing is durable, and checkpoints only pace what sinks commit."""

    def __init__(
        self,
        clock: Clock,
        options: DriverOptions,
        store: CheckpointStore | None,
        dml: DmlLog | None,
        now_cell: Callable[[int], None],
        cold: ColdStore,
    ) -> None:
        super().__init__(clock, options, dml, now_cell, cold)
        self.store = store
        self.checkpoint_id = 0
        self.checkpointed_at: int | None = None
        self.checkpoint_pause = 0.0
        """Longest time in seconds that a checkpoint held the driver."""
        self.checkpoints = Retry(
            "the last checkpoint", f"free space in {None if store is None else store.directory.parent}"
        )
        """Whether checkpoints fail; each has what the failed ones before it had."""
        self.pinned: Callable[[], set[int]] = set
        """Cold segments that savepoints need."""
        self.definitions: Callable[[], Mapping[str, Any]] = dict
        """What jobs are, as JSON values by name: whoever restores their state has to know what it is of."""
        self._in_flight: Capture | None = None
        self._writer: Callable[[Callable[[], None]], None] = lambda work: work()
        self._next_checkpoint = clock.monotonic() + options.checkpoint_interval

    def configure(self, *, latency: float, checkpoint_interval: float) -> None:
        """Change the options, in seconds; another interval counts from now."""
        if checkpoint_interval != self.options.checkpoint_interval:
            self._next_checkpoint = self.clock.monotonic() + checkpoint_interval
        self.options = replace(self.options, latency=latency, checkpoint_interval=checkpoint_interval)

    def _checkpoint_due(self) -> bool:
        """At the interval; with nothing on disk also when sinks have taken much, which is kept in memory until a cut."""
        if self.clock.monotonic() >= self._next_checkpoint or (
            self.checkpoints.error is not None and self._retry_due()
        ):
            return True
        return (
            self.store is None
            and self._in_flight is None
            and any(o.nbytes() > self.budget.queue for o in self._outboxes())
        )

    def _retry_due(self) -> bool:
        return self._in_flight is None and not self.checkpoints.waits(self.clock.monotonic())

    def checkpoint(self, keep: Callable[[int], None] | None = None) -> None:
        """Cut at this boundary and make it durable in the background; skipped while one is under way.

        `keep` gets the id once it is durable, on the thread that writes.
        """
        self._next_checkpoint = self.clock.monotonic() + self.options.checkpoint_interval
        if self._in_flight is not None:
            return
        with self.boundary():
            started = time.perf_counter()
            self._run_pending()
            self.checkpoint_id += 1
            capture = self._capture(self.checkpoint_id)
            if keep is not None:
                capture.keep = keep
            self.checkpoint_pause = max(self.checkpoint_pause, time.perf_counter() - started)
        self._in_flight = capture
        self._writer(lambda: self._write(capture))

    def _capture(self, checkpoint: int) -> Capture:
        outboxes = self._outboxes()
        for outbox in outboxes:
            outbox.seal(checkpoint)
        meta = {
            "scans": {n.id: n.scan.save() for n in self.flow.order if n.scan is not None},
            "placements": self.flow.graph.placements(),
            "parked": self.flow.parking.save(),
            "definitions": self.definitions(),
            "outboxes": {o.spec.name: o.unconfirmed() for o in outboxes},
            "time": self.clock.now(),
            "segments": self.flow.graph.segments(),
            "last_segment": self.cold.last,
        }
        if self.dml is not None:
            self.dml.roll(checkpoint)
        if self.store is None:
            return Capture(checkpoint, meta)
        return self.store.capture(checkpoint, self.states(), meta)

    def load(self, parked: Iterable[Mapping[str, Any]]) -> None:
        """Load every placed state from the checkpoint; jobs that had failed are tried again, from where they stood."""
        assert self.store is not None
        self.flow.parking.park_again(parked)
        self.store.load(self.states())
        self.flow.recall()
        for name, unit in self.flow.parked.items():
            job = self.jobs[name]
            job.status, job.error, job.retry_at = Status.RESTARTING, unit.error, self.clock.monotonic()

    def states(self) -> dict[str, Any]:
        """Every state of the dataflow by its key in the manifest."""
        states: dict[str, Any] = {f"{n.id}#{name}": s for n in self.flow.order for name, s in n.states().items()}
        return states | {f"parked/{min(unit.jobs)}": unit.backlog for unit in self.flow.parking.units()}

    def _outboxes(self) -> list[Outbox]:
        return [n.outlet for n in self.flow.order if isinstance(n.outlet, Outbox)]

    def _write(self, capture: Capture) -> None:
        with self.lock:
            outboxes = self._outboxes()
        if self.store is not None:
            try:
                for outbox in outboxes:
                    outbox.sync(capture.id)
                self.store.write(capture)
            except OSError as error:
                with self.lock:
                    self.checkpoints.failed(error, self.clock.monotonic())
                    self._in_flight = None
                    self.changed.notify_all()
                return
        capture.keep(capture.id)
        self.cold.collect(self.store.segments() | self.pinned() if self.store is not None else ())
        with self.lock:
            if self.cold.ill:
                self.cold.reopen()
            self.checkpoints.succeeded()
            for outbox in outboxes:
                outbox.durable(capture.id)
            for node in self.flow.scans():
                if node.scan is not None and node.id in capture.meta["scans"]:
                    node.scan.reader.committed(capture.meta["scans"][node.id]["positions"])
            self.checkpointed_at = self.clock.now()
            for job in self.jobs.values():
                if job.bootstrap is not None and job.name in capture.meta["placements"]:
                    job.bootstrap.durable()
                    job.bootstrap = None
            self._in_flight = None
            self.changed.notify_all()
        if self.dml is not None and self.store is not None:
            self.dml.prune(self.store.oldest())

    def savepoint(self, keep: Callable[[int], None]) -> None:
        """Take a checkpoint and have `keep` keep it before a later one can make anything of it go.

        Raises:
            StateError: the checkpoint failed, or the disk has no room for `keep`.
            Exception: what `keep` raised.
        """
        kept_at: list[int] = []
        failed: list[Exception] = []

        def kept(checkpoint: int) -> None:
            kept_at.append(checkpoint)
            try:
                keep(checkpoint)
            except Exception as error:  # noqa: BLE001 - the caller's, not the driver's
                failed.append(error)

        with self.boundary():
            self.wait(lambda: self._in_flight is None, None)
            self.checkpoint(kept)
            target = self.checkpoint_id
        self.wait(lambda: self._in_flight is None or self._in_flight.id > target, None)
        if failed and isinstance(failed[0], OSError):
            raise self._not_durable(failed[0]) from failed[0]
        if failed:
            raise failed[0]
        if not kept_at:
            raise self._not_durable(self.checkpoints.error)

    def _not_durable(self, error: Exception | None) -> StateError:
        return StateError("no checkpoint could be made", detail=str(error), hint=self.checkpoints.hint)

    def checkpoint_now(self, timeout: float | None = None) -> bool:
        """Take a checkpoint and wait until it is durable and every sink has committed it, but those of failed jobs.

        Later ones may be under way then, or owed: where they come faster than a sink commits there is no end of them.

        Raises:
            StateError: it failed.
        """
        with self.boundary():
            target = self.checkpoint_id + 1
        while self.checkpoint_id < target:
            if self._in_flight is None:
                self.checkpoint()
            else:
                self.wait(lambda: self._in_flight is None, timeout)

        def done() -> bool:
            durable = self._in_flight is None or self._in_flight.id > target
            return durable and (self.checkpoints.error is not None or not self._owed(target))

        there = self.wait(done, timeout)
        if self.checkpoints.error is not None:
            raise self._not_durable(self.checkpoints.error) from self.checkpoints.error
        return there

    def _owed(self, checkpoint: int) -> bool:
        """Whether a sink that works has this checkpoint to commit, or one before it."""
        outboxes = [o for j in self.jobs.values() if j.status is not Status.FAILED for o in j.outboxes]
        return any(i <= checkpoint for o in outboxes for i in o.unconfirmed())
