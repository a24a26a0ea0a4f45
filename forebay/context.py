"""What statements work on: one open warehouse, its catalog and options, and the connection's lock.

A statement holds the lock while it runs. Where it waits it steps `aside`: others go on meanwhile, and what they may have changed
is to be looked at again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from forebay.engine.connector import Registry
from forebay.engine.errors import ForebayError
from forebay.engine.runtime.bootstrap import check as check_gaps
from forebay.engine.runtime.budget import machine_share
from forebay.engine.runtime.plan import JobPlan
from forebay.engine.runtime.warehouse import Warehouse
from forebay.interrupt import unless_interrupted
from forebay.planner.catalog import Catalog
from forebay.planner.options import Options
from forebay.relations import Relations


class Context:
    """An open warehouse."""

    def __init__(
        self,
        warehouse: Warehouse,
        catalog: Catalog,
        relations: Relations,
        options: Options,
        registry: Registry,
        lock: threading.RLock,
    ) -> None:
        self.warehouse = warehouse
        self.driver = warehouse.driver
        self.catalog = catalog
        self.relations = relations
        self.options = options
        self.registry = registry
        self.lock = lock
        self.opened = False
        """Its saved jobs are there: what is attached now is new."""

    def save(self) -> None:
        """Make the catalog durable."""
        self.warehouse.save_catalog(self.saved())

    def saved(self) -> bytes:
        """The catalog as it is saved."""
        return self.catalog.to_json(self.options.given)

    # -- jobs ---------------------------------------------------------------------------------------------------

    def attach(self, name: str, plan: JobPlan, placement: Mapping[str, str] | None, scans: Mapping[str, Any]) -> None:
        """Without a placement, a checkpoint's, the job is new: its scans begin where their tables say."""
        if self.opened:  # else the job fails by itself, and the others run
            check_gaps(plan)
        positions = scans if placement is not None else {}
        self.driver.attach(name, plan, placement=placement, positions=positions, initial=placement is None)

    def check_running(self) -> None:
        """Raise if a job that is waited for would never get anywhere."""
        if not self.driver.running:
            raise ForebayError("nothing runs in this warehouse yet", hint="call resume() on the connection first")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Without the lock: other statements go on meanwhile, and what they may change is to be looked at again."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def wait(self, done: Callable[[], bool]) -> None:
        """Step aside until `done()`, asked at epoch boundaries."""
        with self.aside():
            self.driver.wait(unless_interrupted(done), None)

    # -- options ------------------------------------------------------------------------------------------------

    def apply_options(self) -> None:
        """Hand the options that the driver acts on to it, and save them."""
        self.configure_driver()
        self.save()

    def configure_driver(self) -> None:
        """Hand the options that the driver acts on to it."""
        self.driver.configure(
            latency=self.options.micros("execution.latency") / 1e6,
            checkpoint_interval=self.options.micros("execution.checkpointing.interval") / 1e6,
        )
        if self.driver.store is not None:
            self.driver.store.retained = self.options.count("state.checkpoints.num-retained")
        self.driver.budget.limit = self.options.budget() or machine_share()
        self.driver.flow.retain_bytes = min(self.options.bytes("state.retain.max"), self.driver.budget.limit // 4)
