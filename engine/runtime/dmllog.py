"""The log of acknowledged DML on embedded tables: appended and synced before a change is applied.

One file per checkpoint interval, `dml-<id>.log`, holds what came after checkpoint <id>; a restart replays the files from the
restored checkpoint on. A record is `length, crc32, table name, Arrow IPC stream of rows and weights`; a torn tail is cut.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.errors import StateError
from forebay.engine.files import Files, declare, kill_point
from forebay.engine.runtime.outbox import WEIGHT

declare("dml.append.before", "dml.append.after", "dml.prune.before")


class DmlLog:
    """The warehouse's DML log. Guarded by the driver's lock."""

    def __init__(self, directory: Path, files: Files) -> None:
        self.directory = directory
        self.files = files
        self.segment = 0
        files.mkdir(directory)

    def append(self, table: str, batch: Batch) -> None:
        """Make one change durable.

        Raises:
            StateError: it cannot be; nothing of it is in the log.
        """
        body = _encode(table, batch)
        kill_point("dml.append.before")
        path = self._path(self.segment)
        fresh = not self.files.exists(path)
        frame = len(body).to_bytes(8, "little") + zlib.crc32(body).to_bytes(4, "little") + body
        try:
            self.files.append(path, frame, sync=True)
            if fresh:
                self.files.sync_dir(self.directory)
        except OSError as error:
            raise StateError(
                f"the change of '{table}' cannot be made durable, and was not made",
                detail=str(error),
                hint=f"free space in {self.directory.parent}, then repeat the statement",
            ) from error
        kill_point("dml.append.after")

    def roll(self, checkpoint: int) -> None:
        """What follows belongs after `checkpoint`."""
        self.segment = checkpoint

    def prune(self, oldest: int) -> None:
        """Remove what checkpoint `oldest` and later ones no longer need."""
        kill_point("dml.prune.before")
        for segment, path in self._segments():
            if segment < oldest:
                self.files.remove(path)

    def replay(self, since: int) -> Iterator[tuple[str, Batch]]:
        """Every change after checkpoint `since`, in order."""
        for segment, path in self._segments():
            if segment >= since:
                self.segment = max(self.segment, segment)
                yield from self._read(path)

    def newest(self) -> int:
        """The newest checkpoint that a file speaks of; it may never have become durable. Later ones need higher numbers, or
        what was logged before them would stand in the same file as what came after."""
        return max((segment for segment, _ in self._segments()), default=0)

    def _segments(self) -> list[tuple[int, Path]]:
        names = [n for n in self.files.list(self.directory) if n.startswith("dml-") and n.endswith(".log")]
        return [(int(n[4:-4]), self.directory / n) for n in names]

    def _path(self, segment: int) -> Path:
        return self.directory / f"dml-{segment:012d}.log"

    def _read(self, path: Path) -> Iterator[tuple[str, Batch]]:
        data = self.files.read(path)
        at = 0
        while at + 12 <= len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            body = data[at + 12 : at + 12 + size]
            if len(body) < size or zlib.crc32(body) != int.from_bytes(data[at + 8 : at + 12], "little"):
                break
            yield _decode(body)
            at += 12 + size
        if at < len(data):
            self.files.truncate(path, at)


def _encode(table: str, batch: Batch) -> bytes:
    name = table.encode()
    rows = batch.rows.append_column(WEIGHT, pa.array(batch.weight_array()))
    out = io.BytesIO()
    out.write(len(name).to_bytes(4, "little") + name)
    with pa.ipc.new_stream(out, rows.schema) as writer:
        writer.write_batch(rows)
    return out.getvalue()


def _decode(body: bytes) -> tuple[str, Batch]:
    size = int.from_bytes(body[:4], "little")
    table = body[4 : 4 + size].decode()
    stored = pa.ipc.open_stream(body[4 + size :]).read_all().combine_chunks()
    rows = stored.to_batches()[0]
    return table, Batch(rows.select(rows.schema.names[:-1]), np.asarray(rows.column(rows.num_columns - 1)))
