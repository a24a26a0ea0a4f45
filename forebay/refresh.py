"""Materialized views that are refreshed on a schedule: `CREATE MATERIALIZED VIEW v WITH ('refresh.interval' = '10 min') AS ...`.

At each interval the query is answered like any SELECT, so it may do what a continuous query cannot (OVER, ORDER BY). The view is
an embedded table underneath: the difference to what it showed is applied in one epoch, and those who read it see a change.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from forebay.interrupt import interruptible

log = logging.getLogger("forebay")

OPTION = "refresh.interval"
_LONGEST_WAIT = 0.5


class Refresher:
    """Calls each view's refresh when it is due, on a thread of its own. `now` is monotonic, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._due: dict[str, tuple[float, float, Callable[[], None]]] = {}
        """Per view: when, how often, and what to call."""
        self.errors: dict[str, Exception] = {}
        """What the last refresh of a view failed on."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, name: str, seconds: float, refresh: Callable[[], None]) -> None:
        """Refresh a view every so many seconds from now on."""
        self._due[name] = (self._now() + seconds, seconds, refresh)

    def remove(self, name: str) -> None:
        """Forget a view."""
        self._due.pop(name, None)
        self.errors.pop(name, None)

    def step(self) -> None:
        """Refresh what is due."""
        for name, (due, seconds, refresh) in list(self._due.items()):
            if self._now() < due:
                continue
            self._due[name] = (self._now() + seconds, seconds, refresh)
            try:
                refresh()
                self.errors.pop(name, None)
            except Exception as error:  # noqa: BLE001 - the view keeps its rows, the other views their turn
                self.errors[name] = error
                log.warning("materialized view %s could not be refreshed: %s", name, error)

    def start(self) -> None:
        """Run until `stop`."""
        self._thread = threading.Thread(target=self._loop, name="forebay-refresh", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        with interruptible(self._stopping.is_set):
            while not self._stopping.wait(self._wait()):
                self.step()

    def _wait(self) -> float:
        soonest = min((due for due, _, _ in self._due.values()), default=self._now() + _LONGEST_WAIT)
        return min(max(soonest - self._now(), 0.0), _LONGEST_WAIT)

    def stop(self) -> None:
        """End the thread; a refresh under way is finished first, but if it waits for input it is called off."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
