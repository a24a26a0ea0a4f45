"""Handles of jobs in the process that owns them: how a user sees and steers what runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from forebay.engine.errors import describe_error
from forebay.engine.operators.base import MAX_WATERMARK
from forebay.engine.runtime.bootstrap import Progress
from forebay.engine.runtime.driver import Driver
from forebay.engine.runtime.job import Job as RunningJob
from forebay.engine.runtime.job import Status
from forebay.session import JobHandle


class Job(JobHandle):
    """A job of this process's warehouse."""

    def __init__(self, driver: Driver, name: str, sql: str, remove: Callable[[str], None]) -> None:
        super().__init__(name, sql)
        self._driver = driver
        self._remove = remove

    @property
    def _job(self) -> RunningJob | None:
        return self._driver.jobs.get(self.name)

    @property
    def status(self) -> str:
        job = self._job
        return Status.STOPPED.value if job is None else job.status.value

    @property
    def error(self) -> Exception | None:
        return None if self._job is None else self._job.error

    def metrics(self) -> dict[str, Any]:
        with self._driver.boundary() as flow:
            nodes = flow.nodes_of(self.name)
            scans = [n.scan for n in nodes if n.scan is not None]
            lags = [lag for s in scans if (lag := s.reader.lag()) is not None]
            marks = [n.watermark for n in nodes if n.scan is not None and n.watermark is not None]
            job = self._job
            started = job.started if job is not None else 0
            seconds = max((self._driver.time.now() - started) / 1e6, 1e-6)
            rows_in = sum(s.metrics.rows for s in scans)
            loading = job.bootstrap.progress() if job and job.bootstrap and job.status is Status.BOOTSTRAPPING else None
            return {
                "status": self.status,
                "rows_in": rows_in,
                "rows_out": sum(n.rows_out for n in nodes[-1:]) + sum(o.rows for o in job.outboxes) if job else 0,
                "records": sum(s.metrics.records for s in scans),
                "bytes_in": sum(s.metrics.nbytes for s in scans),
                "dead": sum(s.metrics.dead for s in scans),
                "rate": round(rows_in / seconds, 1),
                "lag": sum(lags) if lags else None,
                "watermark": _instant(min(marks)) if marks else None,
                "last_checkpoint": _instant(self._driver.checkpointed_at),
                "restarts": 0 if job is None else job.restarts + sum(r.restarts for r in job.runners),
                "seconds": sum(n.seconds for n in nodes),
                "state_rows": sum(s.rows() for n in nodes for s in n.states().values()),
                "state_bytes": sum(s.nbytes() for n in nodes for s in n.states().values()),
                "unconfirmed_bytes": sum(o.nbytes() for o in job.outboxes) if job else 0,
                "error": self._trouble(job),
                "loaded": None,
                "eta": sum(lags) * seconds / rows_in if lags and rows_in else None,
            } | (_loading(loading) if loading is not None else {})

    def _trouble(self, job: RunningJob | None) -> str | None:
        if self.error is not None:
            return describe_error(self.error)
        return self._driver.trouble(job) if job is not None and job.alive else None

    def wait(self, timeout: float | None = None) -> bool:
        done = (Status.FINISHED.value, Status.FAILED.value, Status.STOPPED.value)
        finished = self._driver.wait(lambda: self.status in done, timeout)
        if self.status == Status.FAILED.value and self.error is not None:
            raise self.error
        return finished

    def stop(self) -> None:
        self._driver.checkpoint_now(30)
        self._remove(self.name)

    def cancel(self) -> None:
        self._remove(self.name)

    def resume(self) -> None:
        self._driver.resume(self.name)


def _loading(progress: Progress) -> dict[str, Any]:
    """A bootstrap in the words of a job's metrics: records are rows of the history, `loaded` is the part of the work done."""
    return {
        "rows_in": progress.rows,
        "records": progress.rows,
        "rate": progress.rate,
        "lag": None if progress.total is None else max(progress.total - progress.rows, 0),
        "loaded": progress.fraction,
        "eta": progress.eta,
    }


def _instant(micros: int | None) -> datetime | None:
    if micros is None or micros >= MAX_WATERMARK:
        return None
    return datetime.fromtimestamp(micros / 1e6, UTC)
