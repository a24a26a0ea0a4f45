"""Jobs that wait for histories of their tables: what they need is built between epochs, a slice at a time.

A job that waits has no part in the dataflow, so nobody sees a piece of a history. When all that the waiting jobs need is there
they are attached, at one boundary: so jobs that were made together all see the stream from where their histories end.
"""

from __future__ import annotations

from collections.abc import Callable

from forebay.engine.errors import ConnectorError
from forebay.engine.files import lacks_space
from forebay.engine.runtime.bootstrap import Bootstrap, Workshop, relations_there
from forebay.engine.runtime.bootstrap import check as check_gaps
from forebay.engine.runtime.epochs import Epochs
from forebay.engine.runtime.job import Job, Status


class Waiting:
    """Builds in one workshop what jobs wait for."""

    def __init__(self, epochs: Epochs, shop: Workshop, attach: Callable[..., None]) -> None:
        """`attach(job, plan, built=...)` puts a job into the dataflow, on what was built for it."""
        self._epochs = epochs
        self._shop = shop
        self._attach = attach

    def step(self) -> bool:
        """Build for one latency, unless a caller waits, or attach the jobs if all is built. False if nothing waits."""
        epochs = self._epochs
        if self._shop.space.waits(epochs.clock.monotonic()):
            return False
        waiting = [(j, j.bootstrap) for j in epochs.jobs.values() if j.status is Status.BOOTSTRAPPING and j.bootstrap]
        deadline = epochs.clock.monotonic() + epochs.options.latency
        for job, bootstrap in waiting:
            try:
                build = bootstrap.next(epochs.flow.graph.running)
                while build is not None and build.step() and epochs.clock.monotonic() < deadline and not epochs.callers:
                    pass
            except Exception as error:  # noqa: BLE001 - the job's own failure, reported through its status
                self._failed(job, error)
                return True
            if build is not None:
                return True
        attached = [self._attach_built(job, bootstrap) for job, bootstrap in waiting]
        return any(attached)

    def _attach_built(self, job: Job, bootstrap: Bootstrap) -> bool:
        if job.status is not Status.BOOTSTRAPPING or not relations_there(bootstrap.plan, self._epochs.flow):
            return False
        try:
            check_gaps(bootstrap.plan)
            job.status, job.loaded = Status.RUNNING, bootstrap.progress()
            self._attach(job, bootstrap.plan, built=bootstrap.take())
        except Exception as error:  # noqa: BLE001 - the job's own failure, reported through its status
            job.status, bootstrap.attached = Status.BOOTSTRAPPING, False  # what was built is found where it was saved
            self._failed(job, error)
        self._epochs.changed.notify_all()
        return True

    def _failed(self, job: Job, error: Exception) -> None:
        """Builds go on from what they have saved, unless trying again cannot help; for room on the disk they wait."""
        self._shop.close()
        if lacks_space(error):
            self._shop.space.failed(error, self._epochs.clock.monotonic())
        elif isinstance(error, ConnectorError) and not error.retryable:
            job.give_up(error)
        else:
            job.fail(error, self._epochs.options, self._epochs.clock.monotonic())

    def sweep(self) -> None:
        """Remove what was built for jobs that are gone."""
        self._shop.sweep(self.needed())

    def needed(self) -> set[str]:
        """Names of the builds that jobs wait for."""
        return {
            name
            for j in self._epochs.jobs.values()
            if j.bootstrap is not None and not j.bootstrap.attached
            for name in j.bootstrap.names()
        }
