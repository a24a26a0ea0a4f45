"""Handles of jobs: how a user sees and steers what runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from forebay.engine.errors import CatalogError, nearest
from forebay.engine.operators.base import MAX_WATERMARK
from forebay.engine.runtime.driver import Driver, describe_error
from forebay.engine.runtime.job import Job as RunningJob
from forebay.engine.runtime.job import Status


class Job:
    """One running INSERT, STATEMENT SET or materialized view."""

    def __init__(self, driver: Driver, name: str, sql: str, remove: Callable[[str], None]) -> None:
        self._driver = driver
        self._remove = remove
        self.name = name
        self.sql = sql

    @property
    def _job(self) -> RunningJob | None:
        return self._driver.jobs.get(self.name)

    @property
    def status(self) -> str:
        """RUNNING, RESTARTING, FAILED, FINISHED or STOPPED."""
        job = self._job
        return Status.STOPPED.value if job is None else job.status.value

    @property
    def error(self) -> Exception | None:
        """What the job failed on last."""
        return None if self._job is None else self._job.error

    def metrics(self) -> dict[str, Any]:
        """Counters and positions now: rows_in, rows_out, records, dead, lag, watermark, last_checkpoint, restarts ..."""
        with self._driver.boundary() as flow:
            nodes = flow.nodes_of(self.name)
            scans = [n.scan for n in nodes if n.scan is not None]
            lags = [lag for s in scans if (lag := s.reader.lag()) is not None]
            marks = [n.watermark for n in nodes if n.scan is not None and n.watermark is not None]
            job = self._job
            started = job.started if job is not None else 0
            seconds = max((self._driver.clock.now() - started) / 1e6, 1e-6)
            rows_in = sum(s.metrics.rows for s in scans)
            return {
                "status": self.status,
                "rows_in": rows_in,
                "rows_out": sum(n.rows_out for n in nodes[-1:]) + sum(o.rows for o in job.outboxes) if job else 0,
                "records": sum(s.metrics.records for s in scans),
                "bytes_in": sum(s.metrics.nbytes for s in scans),
                "dead": sum(s.metrics.dead for s in scans),
                "rate": rows_in / seconds,
                "lag": sum(lags) if lags else None,
                "watermark": _instant(min(marks)) if marks else None,
                "last_checkpoint": _instant(self._driver.checkpointed_at),
                "restarts": 0 if job is None else job.restarts + sum(r.restarts for r in job.runners),
                "seconds": sum(n.seconds for n in nodes),
                "state_rows": sum(s.rows() for n in nodes for s in n.states().values()),
                "state_bytes": sum(s.nbytes() for n in nodes for s in n.states().values()),
                "unconfirmed_bytes": sum(o.nbytes() for o in job.outboxes) if job else 0,
                "error": None if self.error is None else describe_error(self.error),
            }

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the job is FINISHED; False after `timeout` seconds.

        Raises:
            Exception: what the job failed on.
        """
        done = (Status.FINISHED.value, Status.FAILED.value, Status.STOPPED.value)
        finished = self._driver.wait(lambda: self.status in done, timeout)
        if self.status == Status.FAILED.value and self.error is not None:
            raise self.error
        return finished

    def stop(self) -> None:
        """End the job after a last checkpoint, so that its sinks show everything read so far."""
        self._driver.checkpoint_now(30)
        self._remove(self.name)

    def cancel(self) -> None:
        """End the job now; what its sinks have not committed is discarded."""
        self._remove(self.name)

    def resume(self) -> None:
        """Try a failed job again from where it stood.

        Raises:
            StateError: what it missed is no longer kept.
        """
        self._driver.resume(self.name)

    def __repr__(self) -> str:
        return f"<Job {self.name}: {self.status}>"


class Jobs(Mapping[str, Job]):
    """The jobs of a connection by name."""

    def __init__(self, names: Callable[[], list[str]], make: Callable[[str], Job]) -> None:
        self._names = names
        self._make = make

    def __getitem__(self, name: str) -> Job:
        if name not in self._names():
            close = nearest(name, self._names())
            raise CatalogError(f"there is no job '{name}'", hint=f"did you mean '{close}'?" if close else None)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


def _instant(micros: int | None) -> datetime | None:
    if micros is None or micros >= MAX_WATERMARK:
        return None
    return datetime.fromtimestamp(micros / 1e6, UTC)
