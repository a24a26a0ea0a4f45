"""The connection that owns a warehouse: the warehouse, its catalog, and what every statement does to them.

`connect` gives it to the first process that opens a warehouse. `executor` says what each statement does.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from forebay.context import Context
from forebay.engine.connector import MEMORY, Registry
from forebay.engine.errors import ForebayError, SqlError, StateError
from forebay.engine.files import Clock, Files
from forebay.engine.runtime.job import Status
from forebay.engine.runtime.options import DriverOptions
from forebay.engine.runtime.warehouse import Warehouse
from forebay.executor import Executor
from forebay.jobs import Job
from forebay.planner import statements as st
from forebay.planner.catalog import Catalog
from forebay.planner.dialect.script import parse
from forebay.planner.messages import place_in
from forebay.planner.options import Options
from forebay.planner.udfs.time import CLOCK
from forebay.relations import Relations
from forebay.result import ChangeStream, Result
from forebay.session import JobHandle, Jobs, Session, names_of

if TYPE_CHECKING:
    from forebay.remote.server import Server

log = logging.getLogger("forebay")


class Connection(Session):
    """The owner's connection: the warehouse runs in this process."""

    def __init__(
        self,
        path: str | Path = ":memory:",
        *,
        resume: bool = True,
        config: Mapping[str, str] | None = None,
        functions: Iterable[Callable[..., Any]] = (),
        registry: Registry | None = None,
        files: Files | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open (or make) the warehouse at `path` and resume its jobs.

        `config`: session options, as SET takes them. `functions`: those that saved jobs use, as `create_function` takes
        them. With `resume=False` nothing runs until `resume`, to look first. `files` and `clock` take the place of the
        real ones: a simulator owns them.

        Raises:
            WarehouseLockedError: another process owns the warehouse.
            StateError: no checkpoint can be read.
        """
        _prefer_plain_malloc()
        if registry is None:
            from forebay.connectors import default_registry

            registry = default_registry(files, clock)
        self._directory = None if str(path) == ":memory:" else Path(path)
        self._registry, self._files, self._clock, self._config = registry, files, clock, config
        self._lock = threading.RLock()
        self._closed = False
        self._server: Server | None = None
        self._open(functions)
        if resume:
            self.resume()

    def _open(self, functions: Iterable[Callable[..., Any]] = ()) -> None:
        """Open the warehouse as it is on disk."""
        self.options = Options(self._config)
        self.warehouse = Warehouse(
            self._directory, DriverOptions(), files=self._files, clock=self._clock, now_cell=CLOCK.set
        )
        self.catalog = Catalog()
        self.relations = Relations(self.catalog, self._registry, self.options, self._directory)
        self._executor = Executor(
            Context(self.warehouse, self.catalog, self.relations, self.options, self._registry, self._lock)
        )
        try:
            for function in functions:
                self.create_function(function)
            self._executor.open()
        except BaseException:
            self.warehouse.close(final_checkpoint=False)
            raise

    @property
    def warnings(self) -> list[str]:
        return list(self.warehouse.restored.warnings)

    # -- statements ---------------------------------------------------------------------------------------------

    def execute(self, sql: str) -> Result:
        self._check_open()
        result = Result(message="nothing to do")
        for statement in parse(sql):
            with self._lock:
                try:
                    if isinstance(statement, st.RestoreSavepoint):
                        result = self._restore(statement.name)
                    else:
                        result = self._executor.run(statement)
                except SqlError as error:
                    if error.sql is None:
                        error.sql, (error.line, error.column) = statement.sql, place_in(statement.sql, error.message)
                    raise _in_script(error, statement.sql, sql, statement.line, statement.column) from None
        return result

    def _restore(self, name: str) -> Result:
        """Go back to a savepoint: the warehouse is opened anew. Handles and streams of before are at their end."""
        savepoints = self._executor.saving.savepoints()
        savepoint, was_running = savepoints.find(name), self.warehouse.driver.running
        self._executor.refresher.stop()
        self.warehouse.stop(StateError(f"the warehouse went back to savepoint '{name}'"))
        try:
            savepoints.stage(savepoint, self.warehouse.above())
        except Exception:
            self._open_again(was_running)
            raise
        self._open_again(was_running)
        return Result(message=f"savepoint {name} restored")

    def _open_again(self, running: bool) -> None:
        registered = self.relations.registered
        self.warehouse.close(final_checkpoint=False)
        self._open()
        self.relations.registered.update(registered)
        if running:
            self.resume()

    def stream(self, query: str) -> ChangeStream:
        self._check_open()
        with self._lock:
            return self._executor.stream(query)

    def lookup(self, relation: str, key: Any) -> dict[str, Any] | None:
        self._check_open()
        return self._executor.lookup(relation, key)

    def register(self, name: str, data: Any) -> None:
        self._check_open()
        self._executor.register(name, data)

    def create_function(self, function: Callable[..., Any]) -> None:
        self._executor.create_function(function)

    # -- jobs ---------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> Jobs[Job]:
        return self._executor.jobs

    def resume(self) -> None:
        self.warehouse.driver.start()
        self._executor.refresher.start()

    def wait(
        self, names: Iterable[str | JobHandle] | str | JobHandle | None = None, timeout: float | None = None
    ) -> bool:
        self._check_open()
        given = [names] if isinstance(names, str | JobHandle) else None if names is None else list(names)
        for name in given or ():
            if isinstance(name, str) and name not in self.catalog.relations:
                self.catalog.job(name)
        wanted = list(self.catalog.jobs) if given is None else names_of(given)
        driver = self.warehouse.driver
        done = driver.wait(lambda: all(self._executor.caught_up(n) for n in wanted), timeout)
        for name in wanted:
            job = driver.jobs.get(name)
            if job is not None and job.status is Status.FAILED and job.error is not None:
                raise job.error
        return done

    def checkpoint(self, timeout: float | None = None) -> bool:
        self._check_open()
        return self.warehouse.driver.checkpoint_now(timeout)

    # -- life ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            self._server.close()
        self._executor.refresher.stop()
        self.warehouse.close()
        if self.relations.warehouse.startswith(MEMORY):
            from forebay.connectors.topiclog import forget_memory

            forget_memory(self.relations.warehouse)

    def serve(self, directory: Path) -> None:
        """Let other processes attach. Where no socket can be made, the owner works alone, and its log says so."""
        from forebay.remote.server import serve

        try:
            self._server = serve(self, directory)
        except (OSError, pa.ArrowException) as error:
            log.warning("other processes cannot attach to %s: %s", directory, error)

    def _check_open(self) -> None:
        if self._closed:
            raise ForebayError("the connection is closed")


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
