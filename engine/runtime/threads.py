"""The threads of a driver: one that takes its turns, one that writes checkpoints, one per sink.

They touch the dataflow at epoch boundaries only. What a thread fails on is never lost: a sink's failure is its job's, any other
stops the driver and is raised to all that wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from forebay.engine.runtime.epochs import Epochs
from forebay.engine.runtime.job import Job
from forebay.engine.runtime.outbox import SinkRunner


class Threads:
    """Take turns of one driver, its epochs and what comes with them, until they are stopped."""

    def __init__(self, epochs: Epochs, turn: Callable[[], bool]) -> None:
        """`turn` is one synchronous turn; False when there was nothing to do."""
        self.stopping = False
        self._epochs = epochs
        self._turn = turn
        self._threads: list[threading.Thread] = []
        self._ready = threading.Condition()
        self._work: list[Callable[[], None]] = []
        """For the writer."""

    @property
    def running(self) -> bool:
        return bool(self._threads)

    def start(self) -> None:
        """Start the writer, then the driver."""
        self._thread("forebay-writer", self._write)
        self._thread("forebay-driver", self._drive)

    def submit(self, task: Callable[[], None]) -> None:
        """Have the writer do something after what it has to do already."""
        with self._ready:
            self._work.append(task)
            self._ready.notify()

    def drain(self, job: Job) -> None:
        """Start the sinks of a job that are not started yet, if anything runs."""
        for runner in job.runners if self.running else ():
            if not runner.draining:
                runner.draining = True
                self._thread(f"forebay-sink-{job.name}", lambda r=runner: self._drain(job, r))  # type: ignore[misc]

    def stop(self, timeout: float) -> None:
        """End all threads. The writer does first what it has to do."""
        self.stopping = True
        self._epochs.awake.set()
        for thread in self._threads:
            thread.join(timeout)
        self._threads = []

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guard(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            self._epochs.stop_for(error)

    def _write(self) -> None:
        while True:
            with self._ready:
                while not self._work and not self.stopping:
                    self._ready.wait(0.1)
                if not self._work:
                    return
                task = self._work.pop(0)
            self._guard(task)

    def _drive(self) -> None:
        epochs = self._epochs

        def run() -> None:
            while not self.stopping and epochs.fatal is None:
                if not self._turn():
                    epochs.awake.wait(epochs.options.idle_wait)
                    epochs.awake.clear()
                while epochs.callers:
                    time.sleep(0.0001)

        self._guard(run)

    def _drain(self, job: Job, runner: SinkRunner) -> None:
        wake = threading.Event()
        runner.outbox.wake = wake.set
        while not (self.stopping or runner.outbox.closed):
            try:
                if runner.step():
                    with self._epochs.changed:
                        self._epochs.changed.notify_all()
                    continue
            except Exception as error:  # noqa: BLE001 - a sink's failure is its job's failure
                runner.close()
                with self._epochs.boundary():
                    runner.draining = False
                    job.give_up(error)
                return
            wake.wait(0.05)
            wake.clear()
        runner.close()
