"""A job as the runtime sees it: its place in the dataflow, its outboxes, its health."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import Enum

from forebay.engine.runtime.bootstrap import Bootstrap, Progress
from forebay.engine.runtime.options import DriverOptions
from forebay.engine.runtime.outbox import Outbox, SinkRunner

log = logging.getLogger("forebay")


class Status(Enum):
    BOOTSTRAPPING = "BOOTSTRAPPING"
    """Histories of its tables are being loaded, or it waits for a view that is."""
    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    """Failed, and waiting to be tried again."""
    FAILED = "FAILED"
    """Failed too often, or in a way that trying again cannot mend; its state is kept."""
    FINISHED = "FINISHED"
    """All inputs were bounded, and all results are shown and committed."""
    STOPPED = "STOPPED"


@dataclass(slots=True, eq=False)
class Job:
    """One INSERT, STATEMENT SET or materialized view at run time."""

    name: str
    status: Status = Status.RUNNING
    error: Exception | None = None
    restarts: int = 0
    failures_here: int = 0
    """Failures since the job last made progress."""
    retry_at: float = 0.0
    outboxes: list[Outbox] = field(default_factory=list)
    runners: list[SinkRunner] = field(default_factory=list)
    started: int = 0
    """µs since 1970."""
    bootstrap: Bootstrap | None = None
    """What is being built for it, until a checkpoint has it."""
    loaded: Progress | None = None
    """How its bootstrap ended."""
    follows: str | None = None
    """Of a job that brings state up for others: the table whose scans it follows."""

    @property
    def alive(self) -> bool:
        """Still to be driven."""
        return self.status in (Status.BOOTSTRAPPING, Status.RUNNING, Status.RESTARTING)

    def fail(self, error: Exception, options: DriverOptions, now: float) -> None:
        """It has failed at `now`, seconds of a monotonic clock: it is tried again later, unless that was once too often."""
        self.error = error
        self.failures_here += 1
        log.error("job %s failed: %s", self.name, error)
        if self.failures_here > options.restarts:
            self.give_up(error)
        else:
            self.status = Status.RESTARTING
            self.retry_at = now + options.backoff * 2 ** (self.failures_here - 1)

    def give_up(self, error: Exception) -> None:
        """It stays failed, until somebody resumes it."""
        self.status = Status.FAILED
        self.error = error
        log.error("job %s stays failed: %s", self.name, error)
