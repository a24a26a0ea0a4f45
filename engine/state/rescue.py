"""Making a cold store again whose own index of files (RocksDB's MANIFEST, CURRENT) or one of whose tables is damaged.

Table files are immutable and whole on their own: each is taken into a new store, and those that cannot be read stay aside as
`*.damaged`. Which checkpoints can be restored from what is left is for their reader to see.

    1. every table gets a second name, `*.rescue`; then the file RESCUE says that all have one
    2. everything else goes, a new store is made, and the tables are ingested one by one
    3. RESCUE goes, and then the second names

One that is cut off before 2 has changed nothing, one that is cut off later is done again from 2.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from forebay.engine.files import Files, declare, kill_point

log = logging.getLogger("forebay")
_MARK = "RESCUE"
_TABLE, _SAVED, _DAMAGED = ".sst", ".rescue", ".damaged"

declare("cold.rescue.before", "cold.rescue.marked", "cold.rescue.ingested")


class Make(Protocol):
    """Opens the store."""

    def __call__(self, read_only: bool = False) -> Any: ...


def wanted(directory: Path, make: Make) -> bool:
    """Whether a rescue was cut off, or there are tables that the index does not have: RocksDB would remove them.

    Its index is cut short where it is torn, without a word. Tables are also left where a process died before it removed them;
    then a rescue takes its time and does no harm.

    Raises:
        Exception: the index cannot be read.
    """
    names = Files().list(directory)
    tables = {n for n in names if n.endswith(_TABLE)}
    if _MARK in names or ("CURRENT" not in names and tables):
        return True
    if not tables:
        return False
    db = make(read_only=True)
    try:
        return not tables <= {file["name"].lstrip("/") for file in db.live_files()}
    finally:
        db.close()


def rescue(directory: Path, make: Make, ingest: Callable[[Any, Sequence[Path]], None]) -> Any:
    """Make the store of a directory again, which nobody has open; `make` opens it, `ingest` takes in table files."""
    files = Files()
    if not files.exists(directory / _MARK):
        _save(files, directory)
    names = files.list(directory)
    saved = [n for n in names if n.endswith(_SAVED)]
    for name in names:
        if name != _MARK and not name.endswith((_SAVED, _DAMAGED)):
            files.remove(directory / name)
    db = make()
    try:
        for name in saved:
            _take_in(files, directory / name, db, ingest)
        kill_point("cold.rescue.ingested")
    except BaseException:
        db.close()
        raise
    files.remove(directory / _MARK)
    files.sync_dir(directory)
    for name in saved:
        files.remove(directory / name)
    return db


def _save(files: Files, directory: Path) -> None:
    kill_point("cold.rescue.before")
    for name in files.list(directory):
        target = (directory / name).with_suffix(_SAVED)
        if name.endswith(_TABLE) and not files.exists(target):
            files.link(directory / name, target)
    files.sync_dir(directory)
    files.write(directory / _MARK, b"")
    files.sync_dir(directory)
    kill_point("cold.rescue.marked")


def _take_in(files: Files, saved: Path, db: Any, ingest: Callable[[Any, Sequence[Path]], None]) -> None:
    table = saved.with_suffix(".segment")
    files.link(saved, table)
    try:
        ingest(db, [table])
    except Exception as error:  # noqa: BLE001 - RocksDB's errors have no class
        log.error("a file of cold state is damaged, and stays aside as %s: %s", saved.with_suffix(_DAMAGED), error)
        files.remove(table)
        if not files.exists(saved.with_suffix(_DAMAGED)):
            files.link(saved, saved.with_suffix(_DAMAGED))
