"""A warehouse directory: who owns it, where its parts lie, and its driver.

    catalog.json     tables, views, jobs (written by the facade through `save_catalog`)
    checkpoints/     manifests and state files
    dml/             acknowledged DML since the last checkpoint
    outbox/<sink>/   rows that sinks have not confirmed
    savepoints/      named checkpoints that are kept
    topics/          the embedded topic log
    warehouse.lock   held by the one owner
    forebay.log      a rotating log

In memory there is no directory, nothing is durable, and checkpoints only pace the sinks' commits.

Checkpoints are numbered from the milliseconds since 1970 at which the warehouse began: a sink remembers the last number that
it committed, and must never meet a smaller one from a warehouse that was made anew under its name.
"""

from __future__ import annotations

import fcntl
import logging
import logging.handlers
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from forebay.engine.errors import ForebayError, StateError
from forebay.engine.files import Clock, Files, declare, kill_point
from forebay.engine.runtime.checkpoint import CheckpointStore
from forebay.engine.runtime.dmllog import DmlLog
from forebay.engine.runtime.driver import Driver
from forebay.engine.runtime.options import DriverOptions
from forebay.engine.runtime.savepoint import Savepoints, safe_name
from forebay.engine.state.coldstore import ColdStore

declare("catalog.write.before", "catalog.rename.before", "catalog.rename.after")

log = logging.getLogger("forebay")


class WarehouseLockedError(ForebayError):
    """Another process owns the warehouse."""


@dataclass(slots=True)
class Restored:
    """What the last checkpoint knows besides states."""

    placements: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    parked: list[Mapping[str, Any]] = field(default_factory=list)
    scans: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    outboxes: Mapping[str, list[int]] = field(default_factory=dict)
    definitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checkpoint: int = 0
    warnings: list[str] = field(default_factory=list)


class Warehouse:
    """The directory and the driver over it. Opening takes the lock; `close` ends with a final checkpoint."""

    def __init__(
        self,
        path: Path | None,
        options: DriverOptions,
        *,
        files: Files | None = None,
        clock: Clock | None = None,
        now_cell: Any = None,
    ) -> None:
        self.path = path
        self.files = files or Files()
        self._lock_file: IO[str] | None = None
        self._log_handler: logging.Handler | None = None
        store = dml = None
        if path is not None:
            try:
                self.files.mkdir(path, private=True)  # the catalog holds passwords
                self._lock_file = lock(path)
                self._log_handler = _log_to(path / "forebay.log")
            except OSError as error:
                raise StateError(
                    f"no warehouse can be opened at '{path}'",
                    detail=error.strerror or str(error),
                    hint="name a directory that can be written, or one to be made",
                ) from error
            store = CheckpointStore(path / "checkpoints", self.files)
            dml = DmlLog(path / "dml", self.files)
        cold = ColdStore(None if path is None else path / "cold")
        self.driver = Driver(clock or Clock(), options, store, dml, now_cell or (lambda now: None), cold)
        self.driver.checkpoint_id = self.driver.clock.now() // 1000
        self.savepoints: Savepoints | None = None
        if path is not None and store is not None:
            self.savepoints = Savepoints(path, self.files, store, cold)
            self.driver.pinned = self.savepoints.segments
            try:
                self.savepoints.finish()
            except BaseException:
                self.close(final_checkpoint=False)
                raise
        self.restored = Restored()

    def read_checkpoint(self) -> Restored:
        """Read the newest good checkpoint's manifest; states are loaded by `load_states` once jobs are placed."""
        store = self.driver.store
        if store is None:
            return self.restored
        manifest, problems = store.latest(self.driver.cold.check)
        if manifest is not None:
            self.driver.checkpoint_id = manifest["id"]
            self.driver.cold.not_below(manifest.get("last_segment", 0))
            self.restored = Restored(
                manifest["placements"],
                manifest.get("parked", []),
                manifest["scans"],
                manifest["outboxes"],
                manifest.get("definitions", {}),
                manifest["id"],
            )
        if self.driver.dml is not None:
            self.driver.checkpoint_id = max(self.driver.checkpoint_id, self.driver.dml.newest())
        if manifest is not None:
            of = datetime.fromtimestamp(manifest["time"] / 1e6, UTC).isoformat(" ", "seconds")
            self.restored.warnings.extend(
                f"an older checkpoint is used, of {of}: {p}; sources are read again from there, and sinks get again what they "
                "got since"
                for p in problems
            )
        for warning in self.restored.warnings:
            log.warning(warning)
        return self.restored

    def load_states(self) -> None:
        """Load every placed state from the checkpoint, then replay the DML that came after it."""
        driver = self.driver
        if driver.store is None or driver.dml is None:
            return
        driver.load(self.restored.parked)
        driver.dml.roll(self.restored.checkpoint)

    def replay_dml(self) -> None:
        """Apply DML that was acknowledged after the restored checkpoint."""
        driver = self.driver
        if driver.dml is None:
            return
        for relation, batch in driver.dml.replay(self.restored.checkpoint):
            if f"relation/{relation}" in driver.flow.nodes:
                driver.feed(relation, batch, log_it=False)

    def outbox_directory(self, name: str) -> Path | None:
        """Where the outbox of a sink lies."""
        return None if self.path is None else self.path / "outbox" / safe_name(name)

    def load_catalog(self) -> bytes | None:
        """The saved catalog, or None in a new warehouse."""
        if self.path is None or not self.files.exists(self.path / "catalog.json"):
            return None
        return self.files.read(self.path / "catalog.json")

    def save_catalog(self, data: bytes) -> None:
        """Replace the catalog atomically; durable on return.

        Raises:
            StateError: it cannot be written; the old one stays.
        """
        if self.path is None:
            return
        kill_point("catalog.write.before")
        try:
            self.files.write(self.path / "catalog.tmp", data)
            kill_point("catalog.rename.before")
            self.files.replace(self.path / "catalog.tmp", self.path / "catalog.json")
        except OSError as error:
            raise StateError(
                "the statement was carried out, but will be forgotten when this process ends: the catalog cannot be saved",
                detail=str(error),
                hint=f"free space in {self.path}; the next statement that defines something saves this one too",
            ) from error
        kill_point("catalog.rename.after")

    def above(self) -> int:
        """A number that no checkpoint of this warehouse exceeds: the next timeline begins after it."""
        logged = self.driver.dml.newest() if self.driver.dml is not None else 0
        return max(self.driver.checkpoint_id, self.driver.clock.now() // 1000, logged)

    def stop(self, reason: Exception) -> None:
        """Stop the driver where it is; whoever waits for it gets the reason."""
        self.driver.stop(final_checkpoint=False)
        with self.driver.boundary():
            self.driver.fatal = reason

    def close(self, *, final_checkpoint: bool = True) -> None:
        """Stop the driver and give up the lock."""
        try:
            self.driver.stop(final_checkpoint=final_checkpoint)
        finally:
            self.driver.cold.close()
            if self._lock_file is not None:
                self._lock_file.close()
                self._lock_file = None
            if self._log_handler is not None:
                log.removeHandler(self._log_handler)
                self._log_handler.close()


def lock(path: Path) -> IO[str]:
    """The file whose being open is the ownership of the warehouse.

    Raises:
        WarehouseLockedError: another process has it.
    """
    file = open(path / "warehouse.lock", "a+")  # noqa: SIM115 - held until close
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise WarehouseLockedError(
            f"warehouse '{path}' is owned by another process (pid {owner})",
            hint="attach to it with connect(path), or stop that process",
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _log_to(path: Path) -> logging.Handler:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=4 << 20, backupCount=3)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(threadName)s %(message)s"))
    log.addHandler(handler)
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
        log.propagate = False
    return handler
