"""The connection: a warehouse, its catalog, and what every statement does to them.

`Connection` is what users hold; `executor` says what each statement does. The connection that opens a warehouse owns it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from forebay.engine.connector import Registry
from forebay.engine.errors import ForebayError, SqlError
from forebay.engine.runtime.driver import DriverOptions
from forebay.engine.runtime.job import Status
from forebay.engine.runtime.warehouse import Warehouse
from forebay.executor import Executor
from forebay.jobs import Job, Jobs
from forebay.planner.catalog import Catalog
from forebay.planner.dialect.script import parse
from forebay.planner.options import Options
from forebay.planner.udfs.time import CLOCK
from forebay.relations import Relations
from forebay.result import ChangeStream, Result


class Connection:
    """An open warehouse. Safe to use from several threads; a statement at a time per thread."""

    def __init__(
        self,
        path: str | Path = ":memory:",
        *,
        resume: bool = True,
        config: Mapping[str, str] | None = None,
        registry: Registry | None = None,
    ) -> None:
        """Open (or make) the warehouse at `path` and resume its jobs.

        `config`: session options, as SET takes them. With `resume=False` nothing runs until `resume`, to look first.

        Raises:
            WarehouseLockedError: another process owns the warehouse.
            StateError: no checkpoint can be read.
        """
        _prefer_plain_malloc()
        if registry is None:
            from forebay.connectors import default_registry

            registry = default_registry()
        directory = None if str(path) == ":memory:" else Path(path)
        self.options = Options(config)
        self.warehouse = Warehouse(directory, _driver_options(self.options), now_cell=CLOCK.set)
        self.catalog = Catalog()
        self.relations = Relations(self.catalog, registry, self.options, directory)
        self._lock = threading.RLock()
        self._closed = False
        self._executor = Executor(self.warehouse, self.catalog, self.relations, self.options, registry)
        try:
            self._executor.open()
        except BaseException:
            self.warehouse.close(final_checkpoint=False)
            raise
        if resume:
            self.resume()

    # -- statements ---------------------------------------------------------------------------------------------

    def execute(self, sql: str) -> Result:
        """Run every statement of a script; the last one's result.

        Raises:
            ForebayError: a statement is wrong or cannot be carried out; those before it stand.
        """
        self._check_open()
        result = Result(message="nothing to do")
        for statement in parse(sql):
            with self._lock:
                try:
                    result = self._executor.run(statement)
                except SqlError as error:
                    raise _in_script(error, statement.sql, sql, statement.line, statement.column) from None
        return result

    def sql(self, query: str) -> Result:
        """Run one query and return its rows."""
        return self.execute(query)

    def explain(self, sql: str) -> str:
        """The plan of a statement as text."""
        return str(self.execute(f"EXPLAIN {sql}").fetchall()[0][0])

    def stream(self, query: str) -> ChangeStream:
        """Run a query continuously: its current result, then its changes as they happen."""
        self._check_open()
        with self._lock:
            return self._executor.stream(query)

    def lookup(self, relation: str, key: Any) -> dict[str, Any] | None:
        """The row of a materialized view or embedded table under its primary key, or None.

        `key` is a value, a tuple for a key of several columns, or a mapping of column to value.

        Raises:
            CatalogError: the relation is missing or has no key.
        """
        self._check_open()
        return self._executor.lookup(relation, key)

    def register(self, name: str, data: Any) -> None:
        """Make an Arrow, pandas or Polars object readable as a bounded table."""
        self._executor.register(name, data)

    def create_function(self, function: Callable[..., Any]) -> None:
        """Make a function decorated with `forebay.udf` usable in SQL."""
        self._executor.create_function(function)

    # -- jobs ---------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> Jobs:
        """The jobs by name."""
        return self._executor.jobs

    def resume(self) -> None:
        """Let the jobs run, after `connect(..., resume=False)`."""
        self.warehouse.driver.start()

    def wait(self, names: Iterable[str | Job] | str | Job | None = None, timeout: float | None = None) -> bool:
        """Block until the bounded inputs of these jobs or views (None: of all) are consumed and shown.

        False after `timeout` seconds.

        Raises:
            Exception: what one of them failed on.
        """
        if names is None:
            wanted = list(self.catalog.jobs)
        elif isinstance(names, str | Job):
            wanted = [str(getattr(names, "name", names))]
        else:
            wanted = [str(getattr(n, "name", n)) for n in names]
        driver = self.warehouse.driver
        done = driver.wait(lambda: all(self._executor.caught_up(n) for n in wanted), timeout)
        for name in wanted:
            job = driver.jobs.get(name)
            if job is not None and job.status is Status.FAILED and job.error is not None:
                raise job.error
        return done

    def checkpoint(self, timeout: float | None = None) -> bool:
        """Take a checkpoint now; True once it is durable and the sinks have committed it."""
        return self.warehouse.driver.checkpoint_now(timeout)

    # -- life ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop all jobs with a final checkpoint and give the warehouse up."""
        if self._closed:
            return
        self._closed = True
        self.warehouse.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ForebayError("the connection is closed")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _driver_options(options: Options) -> DriverOptions:
    return DriverOptions(
        latency=options.micros("execution.latency") / 1e6,
        checkpoint_interval=options.micros("execution.checkpointing.interval") / 1e6,
    )


def _in_script(error: SqlError, own: str, script: str, line: int, column: int) -> SqlError:
    """The error's place in the whole script, if it was given in the statement's own text."""
    if error.sql is None or error.line is None or error.column is None:
        error.sql, error.line, error.column = script, line, column
    elif error.sql == own and own != script:
        error.column += column - 1 if error.line == 1 else 0
        error.line += line - 1
        error.sql = script
    return error


def _prefer_plain_malloc() -> None:
    """Let Arrow allocate through malloc unless the user has chosen a pool.

    A batch's buffers are some megabytes, freed as soon as they are used: Arrow's own default gives such blocks back to the
    system and faults them in again each time. Measured: 1.1 to 1.3 times the rate, at the same resident memory.
    """
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        pa.set_memory_pool(pa.system_memory_pool())


def connect(
    path: str | Path = ":memory:", *, resume: bool = True, config: Mapping[str, str] | None = None
) -> Connection:
    """Open a warehouse: a directory, or ':memory:' for one that is gone when the connection closes."""
    return Connection(path, resume=resume, config=config)
