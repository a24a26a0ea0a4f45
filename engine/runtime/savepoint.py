"""Savepoints: named checkpoints that are kept until they are dropped, in the warehouse or as a copy at any URI.

    savepoints/<name>.json      the record: the checkpoint's manifest, the catalog of that instant, the files
    savepoints/<name>/...       hard links of its state files and of the rows that sinks had not confirmed

Nothing is copied: state files are linked, and cold segments stay in the cold store because `segments` names them to whoever
collects. A record is renamed into place after its files and removed before them: that instant makes or ends the savepoint.

Restoring makes the savepoint the newest checkpoint, under a number higher than any before, so that sinks never meet an old one.
Files are put in their places first; then a journal (`restoring.json`) has the new manifest and catalog; whoever opens the
warehouse next finishes what the journal says. So a restore that is cut off has happened or has not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay.engine.errors import CatalogError, StateError, nearest
from forebay.engine.files import Files, declare, kill_point
from forebay.engine.runtime.checkpoint import CheckpointStore, files_of, sealed, unsealed
from forebay.engine.runtime.copies import Copies, Copy, without_secrets
from forebay.engine.state.coldstore import ColdStore

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_JOURNAL = "restoring.json"

declare(
    "savepoint.link.before",
    "savepoint.record.before",
    "savepoint.record.after",
    "savepoint.drop.before",
    "savepoint.drop.after",
    "restore.stage.before",
    "restore.journal.before",
    "restore.journal.after",
    "restore.finish.before",
    "restore.finish.after",
)


@dataclass(frozen=True, slots=True)
class Savepoint:
    """The record of one savepoint."""

    name: str
    created: int
    """µs since 1970."""
    manifest: Mapping[str, Any]
    catalog: str
    files: tuple[str, ...]
    """Paths within the warehouse, of state files and spools."""
    nbytes: int
    location: str | None = None
    """URI of the directory that has its copy; None: it is in the warehouse."""

    @property
    def checkpoint(self) -> int:
        """The number of its checkpoint."""
        return int(self.manifest["id"])

    @property
    def segments(self) -> set[int]:
        """The cold segments that it needs."""
        return set(self.manifest["segments"])

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        value = {name: getattr(self, name) for name in ("name", "created", "manifest", "catalog", "nbytes", "location")}
        return {**value, "format": FORMAT, "files": list(self.files)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Savepoint:
        """What `to_json` gave."""
        rest = {name: value[name] for name in ("name", "created", "manifest", "catalog", "nbytes", "location")}
        return Savepoint(**rest, files=tuple(value["files"]))


class Savepoints:
    """The savepoints of one warehouse directory. `keep` may run on the writer's thread, the rest under the connection's lock."""

    def __init__(self, warehouse: Path, files: Files, store: CheckpointStore, cold: ColdStore) -> None:
        self.warehouse = warehouse
        self.directory = warehouse / "savepoints"
        self.files = files
        self._store = store
        self._cold = cold
        self._copies = Copies(files)
        self._passing: set[int] = set()
        """Segments of a savepoint that is being copied elsewhere."""

    # -- the list -----------------------------------------------------------------------------------------------

    def all(self) -> list[Savepoint]:
        """Every savepoint, oldest first."""
        names = [n for n in self.files.list(self.directory) if n.endswith(".json")]
        return sorted((self._read(self.directory / n) for n in names), key=lambda s: (s.created, s.name))

    def find(self, name: str) -> Savepoint:
        """The savepoint of that name.

        Raises:
            CatalogError: there is none.
        """
        if not self.files.exists(self._record(name)):
            known = [s.name for s in self.all()]
            close = nearest(name, known)
            hint = f"did you mean {close}?" if close else f"there are: {', '.join(known) or 'none'}"
            raise CatalogError(f"there is no savepoint '{name}'", hint=hint)
        return self._read(self._record(name))

    def segments(self) -> set[int]:
        """The cold segments that savepoints in the warehouse need."""
        return self._passing.union(*(s.segments for s in self.all() if s.location is None))

    def _record(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def _read(self, path: Path) -> Savepoint:
        return Savepoint.from_json(unsealed(self.files.read(path), FORMAT))

    # -- making -------------------------------------------------------------------------------------------------

    def check_new(self, name: str, location: str | None) -> None:
        """Raises:
        CatalogError: the name is taken, or cannot be the name of a file.
        ConnectorError: nothing can be read at the location.
        """
        if not _NAME.fullmatch(name):
            raise CatalogError(f"'{name}' cannot name a savepoint", hint="use letters, digits, '_', '-' and '.'")
        taken = self.files.exists(self._record(name))
        if taken or (location is not None and self._copies.has(location, name)):
            where = "" if taken or location is None else f" at {without_secrets(location)}"
            raise CatalogError(
                f"savepoint '{name}' exists already{where}", hint=f"DROP SAVEPOINT {name}, or another name"
            )

    def keep(self, name: str, checkpoint: int, created: int, catalog: str, location: str | None) -> Savepoint:
        """Keep a checkpoint that the store has, for good (`location` None) or until `copy` has copied it."""
        manifest = self._store.manifest(checkpoint)
        self._clear(name)
        paths = [path for path in self._needed(manifest) if self._link(name, path)]
        nbytes = sum(self.files.size(self.directory / name / p) for p in paths)
        nbytes += sum(p.stat().st_size for _, p in self._cold.tables(manifest["segments"]))
        savepoint = Savepoint(name, created, manifest, catalog, tuple(paths), nbytes, location)
        if location is None:
            self._write(savepoint)
        else:
            self._passing |= savepoint.segments
        return savepoint

    def _link(self, name: str, path: str) -> bool:
        """Link a file to the savepoint; False if it has gone: its sink has confirmed the rows meanwhile."""
        kill_point("savepoint.link.before")
        target = self.directory / name / path
        self.files.mkdir(target.parent)
        try:
            self.files.link(self.warehouse / path, target)
        except FileNotFoundError:
            if not path.startswith("outbox/"):
                raise
            return False
        self.files.sync_dir(target.parent)
        return True

    def copy(self, savepoint: Savepoint) -> int:
        """Copy a savepoint that is kept for it to its location; the bytes that were new there."""
        assert savepoint.location is not None
        try:
            sources = {p: self.directory / savepoint.name / p for p in savepoint.files}
            sources |= {f"cold/{s}/{p.name}": p for s, p in self._cold.tables(savepoint.segments)}
            copied = self._copies.put(savepoint.location, savepoint.name, savepoint.to_json(), sources)
            self._write(savepoint)
        finally:
            self._passing -= savepoint.segments
            self._clear(savepoint.name)
        return copied

    def _needed(self, manifest: Mapping[str, Any]) -> Iterator[str]:
        """Paths of the files of a checkpoint: pieces of state, and what sinks have not confirmed."""
        for name in sorted(files_of(manifest)):
            yield f"checkpoints/{name}"
        for sink, ids in manifest["outboxes"].items():
            directory = f"outbox/{safe_name(sink)}"
            for name in ["record.json", *(f"{i:012d}.spool" for i in ids)]:
                if self.files.exists(self.warehouse / directory / name):
                    yield f"{directory}/{name}"

    def _write(self, savepoint: Savepoint) -> None:
        self.files.mkdir(self.directory)
        temporary = self.directory / "record.tmp"
        kill_point("savepoint.record.before")
        self.files.write(temporary, sealed(savepoint.to_json()))
        self.files.replace(temporary, self._record(savepoint.name))
        kill_point("savepoint.record.after")

    def drop(self, name: str) -> None:
        """Forget a savepoint, and its copy if it has one elsewhere; segments go with the next checkpoint.

        Raises:
            CatalogError: there is none of that name.
            ConnectorError: its copy cannot be removed.
        """
        savepoint = self.find(name)
        if savepoint.location is not None:
            self._copies.drop(savepoint.location, name)
        kill_point("savepoint.drop.before")
        self.files.remove(self._record(name))
        self.files.sync_dir(self.directory)
        kill_point("savepoint.drop.after")
        self._clear(name)

    def _clear(self, name: str) -> None:
        """Remove the links of a savepoint without a record: one that was cut off, copied, or dropped."""
        root = self.directory / name
        for directory in (root / "checkpoints", *(root / "outbox" / n for n in self.files.list(root / "outbox"))):
            for file in self.files.list(directory):
                self.files.remove(directory / file)

    def sweep(self) -> None:
        """Remove what makings that were cut off have left."""
        names = self.files.list(self.directory)
        for name in names:
            if "." not in name and f"{name}.json" not in names:
                self._clear(name)

    # -- restoring ----------------------------------------------------------------------------------------------

    def stage(self, savepoint: Savepoint, above: int) -> None:
        """Decide to go back to a savepoint of this warehouse; `finish` carries it out. Nothing may run.

        `above`: a number that no checkpoint that a sink may know exceeds.

        Raises:
            StateError: a file of it is missing or damaged; nothing was changed.
            ConnectorError: its copy cannot be read.
        """
        if savepoint.location is not None:
            savepoint = self._fetch(savepoint.location, savepoint.name)
        else:
            for path in savepoint.files:
                self._put(path, self.directory / savepoint.name / path)
        self._decide(savepoint, above)

    def stage_copy(self, location: str, name: str, above: int) -> None:
        """Decide to begin a warehouse, this new one, from a copy.

        Raises:
            CatalogError: there is no such savepoint.
            StateError: a file of it is missing or damaged.
            ConnectorError: it cannot be read.
        """
        self._decide(self._fetch(location, name), above)

    def _put(self, path: str, source: Path) -> None:
        kill_point("restore.stage.before")
        target = self.warehouse / path
        if not self.files.exists(target):
            self.files.mkdir(target.parent)
            self.files.link(source, target)
            self.files.sync_dir(target.parent)

    def _fetch(self, location: str, name: str) -> Savepoint:
        """Bring a copy's files into the warehouse, those that are not there."""
        value, copies = self._copies.get(location, name)
        savepoint = Savepoint.from_json(value)
        there = savepoint.segments - self._cold.missing(savepoint.segments).keys()
        tables = []
        for copy in copies:
            kill_point("restore.stage.before")
            kind, _, rest = copy.path.partition("/")
            if kind != "cold":
                self._bring(location, copy, self.warehouse / copy.path)
            elif int(rest.partition("/")[0]) not in there:
                tables.append(self._cold.directory / f"{rest.replace('/', '-')}.segment")
                self._copies.fetch(location, copy, tables[-1])
        self._cold.ingest(tables)
        return savepoint

    def _bring(self, location: str, copy: Copy, target: Path) -> None:
        there = self.files.exists(target)
        if not there or (copy.path.startswith("checkpoints/") and self.files.checksum(target) != copy.crc):
            self.files.mkdir(target.parent)
            self._copies.fetch(location, copy, target)

    def _decide(self, savepoint: Savepoint, above: int) -> None:
        self._store.check(savepoint.manifest)
        missing = self._cold.missing(savepoint.segments)
        if missing:
            raise StateError(
                f"savepoint '{savepoint.name}' lacks {len(missing)} cold segments; nothing was changed",
                detail="; ".join(missing.values()),
            )
        last = max(self._cold.last, savepoint.manifest.get("last_segment", 0))
        number = max(above, self._store.newest(), savepoint.checkpoint) + 1
        manifest = {**savepoint.manifest, "id": number, "last_segment": last}
        journal = sealed({"format": FORMAT, "manifest": manifest, "catalog": savepoint.catalog})
        temporary = self.warehouse / "restoring.tmp"
        kill_point("restore.journal.before")
        self.files.write(temporary, journal)
        self.files.replace(temporary, self.warehouse / _JOURNAL)
        kill_point("restore.journal.after")

    def finish(self) -> None:
        """Carry out what was decided, if anything was: the savepoint is the only checkpoint, and the catalog is its own."""
        journal = self.warehouse / _JOURNAL
        if not self.files.exists(journal):
            return
        decided = unsealed(self.files.read(journal), FORMAT)
        kill_point("restore.finish.before")
        self.files.write(self.warehouse / "catalog.tmp", decided["catalog"].encode())
        self.files.replace(self.warehouse / "catalog.tmp", self.warehouse / "catalog.json")
        self._store.publish(decided["manifest"])
        self._store.forget_before(decided["manifest"]["id"])
        kill_point("restore.finish.after")
        self.files.remove(journal)
        self.files.sync_dir(self.warehouse)


def safe_name(name: str) -> str:
    """A name as that of a directory."""
    return "".join(c if c.isalnum() or c in "-_." else f"%{ord(c):02x}" for c in name)
