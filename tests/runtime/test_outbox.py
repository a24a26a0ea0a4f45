"""The outbox of a sink between its two sides, and when its spool cannot be written."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from forebay.engine.batch import Batch
from forebay.engine.files import Files
from forebay.engine.runtime.outbox import Outbox, OutboxSpec

SCHEMA = pa.schema([("n", pa.int64())])


class Disk(Files):
    """Runs `before` at each append; full if told so."""

    def __init__(self) -> None:
        self.before = lambda: None
        self.full = False

    def append(self, path: Path, data: bytes | memoryview, sync: bool) -> int:
        self.before()
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().append(path, data, sync)


def outbox(tmp_path: Path, disk: Files, **how: Any) -> Outbox:
    def nothing() -> Any:
        raise AssertionError("no sink is opened here")

    return Outbox(OutboxSpec("s", nothing, SCHEMA, tmp_path / "outbox", disk), **how)


def give(box: Outbox, n: int) -> None:
    box.take([Batch(pa.record_batch([[n]], schema=SCHEMA))], None, 1)
    box.commit()


def taken(box: Outbox) -> list[int]:
    """What the sink gets until the next commit."""
    rows = []
    while (batch := box.next_batch()) is not None:
        rows += batch.rows.column(0).to_pylist()
    return rows


def test_a_sink_that_opens_again_while_rows_are_spooled_gets_them(tmp_path: Path) -> None:
    disk = Disk()
    box = outbox(tmp_path, disk, next_id=7)
    give(box, 1)
    other = threading.Thread(target=box.rewind)

    def opens_again() -> None:
        other.start()
        other.join(0.05)

    disk.before = opens_again
    give(box, 2)
    other.join()
    assert taken(box) == [1, 2]


def test_what_a_full_disk_does_not_take_is_sent_and_kept_in_order(tmp_path: Path) -> None:
    disk = Disk()
    box = outbox(tmp_path, disk, next_id=7)
    give(box, 1)
    disk.full = True
    give(box, 2)
    disk.full = False
    give(box, 3)
    assert taken(box) == [1, 2, 3]
    disk.full = True
    give(box, 4)
    box.rewind()
    assert taken(box) == [1, 2, 3, 4]
    box.seal(7)
    with pytest.raises(OSError, match="No space"):
        box.sync(7)
    give(box, 5)
    box.seal(8)
    disk.full = False
    box.sync(8)  # of the checkpoint that failed, too
    again = outbox(tmp_path, Files(), next_id=9, restored=[7, 8])
    assert taken(again) == [1, 2, 3, 4]
    again.confirm(7)
    assert taken(again) == [5]
