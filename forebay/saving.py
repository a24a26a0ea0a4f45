"""Savepoints as statements: CREATE, DROP and SHOW in a warehouse that runs; `restore` for one that does not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from forebay.engine.errors import StateError, UnsupportedError
from forebay.engine.files import Clock, Files
from forebay.engine.runtime.checkpoint import CheckpointStore
from forebay.engine.runtime.copies import without_secrets
from forebay.engine.runtime.savepoint import Savepoint, Savepoints
from forebay.engine.runtime.warehouse import Warehouse, lock
from forebay.engine.state.coldstore import ColdStore
from forebay.planner import statements as st
from forebay.result import Result

_SCHEMA = pa.schema(
    [
        ("savepoint", pa.string()),
        ("created", pa.timestamp("ms", "UTC")),
        ("checkpoint", pa.int64()),
        ("bytes", pa.int64()),
        ("location", pa.string()),
    ]
)


class Saving:
    """Carries out the statements about savepoints."""

    def __init__(
        self, warehouse: Warehouse, catalog: Callable[[], bytes], aside: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """`catalog`: the catalog as it would be saved. Within `aside()` other statements go on."""
        self._warehouse = warehouse
        self._catalog = catalog
        self._aside = aside

    def create(self, statement: st.CreateSavepoint) -> Result:
        """Take a checkpoint and keep it, here or at a URI.

        Raises:
            CatalogError: the name is taken.
            ConnectorError: the URI cannot be written.
        """
        savepoints, name, location = self.savepoints(), statement.name, statement.location
        savepoints.check_new(name, location)
        catalog, made = self._catalog().decode(), list[Savepoint]()

        def keep(checkpoint: int) -> None:
            made.append(savepoints.keep(name, checkpoint, self._warehouse.driver.clock.now(), catalog, location))

        self._warehouse.driver.savepoint(keep)
        if location is None:
            return Result(message=f"savepoint {name} created")
        with self._aside():
            new = savepoints.copy(made[0])
        return Result(message=f"savepoint {name} created, {new} new bytes at {without_secrets(location)}")

    def drop(self, name: str, if_exists: bool) -> Result:
        """Forget a savepoint, and its copy."""
        if if_exists and name not in {s.name for s in self.savepoints().all()}:
            return Result(message=f"there is no savepoint {name}")
        self.savepoints().drop(name)
        return Result(message=f"savepoint {name} dropped")

    def show(self) -> Result:
        """One row per savepoint, oldest first."""
        found = [] if self._warehouse.savepoints is None else self._warehouse.savepoints.all()
        rows = [
            {
                "savepoint": s.name,
                "created": datetime.fromtimestamp(s.created / 1e6, UTC),
                "checkpoint": s.checkpoint,
                "bytes": s.nbytes,
                "location": None if s.location is None else without_secrets(s.location),
            }
            for s in found
        ]
        return Result(pa.Table.from_pylist(rows, _SCHEMA))

    def savepoints(self) -> Savepoints:
        """Raises:
        UnsupportedError: the warehouse is in memory.
        """
        if self._warehouse.savepoints is None:
            raise UnsupportedError("a warehouse in memory has no savepoints", hint="open it with a directory")
        return self._warehouse.savepoints


def restore(path: Path, name: str, location: str | None = None) -> None:
    """Take a warehouse that nobody has open back to a savepoint; with `location` make a new one from a copy there.

    Raises:
        CatalogError: there is no such savepoint.
        StateError: it is damaged, or the directory has a warehouse already; nothing was changed.
        ConnectorError: the copy cannot be read.
        WarehouseLockedError: a process has it open.
    """
    files, clock = Files(), Clock()
    if location is not None and files.exists(path / "catalog.json"):
        raise StateError(f"'{path}' is a warehouse already", hint="restore the copy into a new directory")
    if location is None and not files.exists(path / "catalog.json"):
        raise StateError(f"there is no warehouse at '{path}'", hint="--from URI restores a copy into a new directory")
    files.mkdir(path)
    cold = ColdStore(path / "cold")
    with lock(path):
        try:
            savepoints = Savepoints(path, files, CheckpointStore(path / "checkpoints", files), cold)
            savepoints.finish()
            above = clock.now() // 1000
            if location is None:
                savepoints.stage(savepoints.find(name), above)
            else:
                savepoints.stage_copy(location, name, above)
            savepoints.finish()
        finally:
            cold.close()
