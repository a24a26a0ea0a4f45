"""Writing a directory, exactly once: rows become visible in whole files, by renames that a manifest has decided.

    <path>/[dt=2026-01-31/]part-<sink>-<checkpoint>-<n>.parquet     visible
    <path>/[dt=2026-01-31/].part-<sink>-<epoch>-<n>.inprogress      being written; readers skip names with a dot
    <path>/.forebay/<sink>.json                                     the manifest

`commit` closes and syncs the files, then replaces the manifest with {epoch, checkpoint, renames}: that is the commit. Then it
renames. `recover` carries out the manifest's renames that a crash has left, removes every other file in progress, and
raises the epoch, so that an older writer of the same sink can commit no more. Names follow from (sink, checkpoint, number).
"""

from __future__ import annotations

import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forebay.connectors.filesystem.partitions import split_rows
from forebay.connectors.records import one_by_one
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Encoder, Sink
from forebay.engine.errors import ConnectorError, DataError, StateError
from forebay.engine.files import Clock, Files, declare, kill_point

declare(
    "filesink.data.before",
    "filesink.data.after",
    "filesink.manifest.before",
    "filesink.manifest.after",
    "filesink.rename.before",
    "filesink.rename.after",
    "filesink.success.before",
    "filesink.success.after",
    "filesink.recover.before",
    "filesink.recover.after",
)

GROUP_ROWS = 131_072
GROUP_BYTES = 32 << 20
"""A Parquet row group is closed beyond either."""


class FileWriter(ABC):
    """One file in progress."""

    def __init__(self, files: Files, path: Path, opened: float) -> None:
        self.files = files
        self.path = path
        self.opened = opened
        """Clock seconds at which the file was begun."""
        self.nbytes = 0

    @abstractmethod
    def write(self, batch: Batch) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Write what is buffered; the file is complete, not synced."""

    def append(self, data: bytes) -> None:
        self.nbytes = self.files.append(self.path, data, sync=False)


class LineWriter(FileWriter):
    """One encoded record per line."""

    def __init__(self, files: Files, path: Path, opened: float, encoder: Encoder) -> None:
        super().__init__(files, path, opened)
        self._encoder = encoder

    def write(self, batch: Batch) -> None:
        from forebay.connectors.formats.fragments import lines  # its kernels are those of the encoders

        data = lines(self._encoder.encode(batch).drop_null())
        if len(data):
            self.append(data.tobytes())

    def finish(self) -> None:
        pass


class ParquetWriter(FileWriter):
    """Rows are gathered into row groups of a good size."""

    def __init__(self, files: Files, path: Path, opened: float, schema: pa.Schema, compression: str) -> None:
        super().__init__(files, path, opened)
        self._writer = pq.ParquetWriter(_Appender(self), schema, compression=compression)
        self._rows: list[pa.RecordBatch] = []
        self._buffered = 0

    def write(self, batch: Batch) -> None:
        self._rows.append(batch.rows)
        self._buffered += batch.rows.nbytes
        if self._buffered > GROUP_BYTES or sum(r.num_rows for r in self._rows) > GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._rows))
        self._rows, self._buffered = [], 0

    def finish(self) -> None:
        self._flush()
        self._writer.close()


class _Appender(io.RawIOBase):
    """A file object over `Files.append`."""

    def __init__(self, writer: FileWriter) -> None:
        super().__init__()
        self._writer = writer
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        self._writer.append(bytes(data))
        self._at += len(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class FileSinkSpec:
    """Where and how a sink writes."""

    name: str
    """Of the sink: unique among those that write to the directory."""
    directory: Path
    schema: pa.Schema
    """Columns inside the files."""
    partitioned_by: tuple[str, ...]
    default_partition: str
    roll_bytes: int
    roll_seconds: float
    success_file: str | None
    extension: str
    encoder: Encoder | None
    """None: Parquet."""
    changelog: Changelog = Changelog.APPEND
    compression: str = "snappy"
    files: Files = field(default_factory=Files)
    clock: Clock = field(default_factory=Clock)


class FileSink(Sink):
    """One writer of a directory."""

    def __init__(self, spec: FileSinkSpec) -> None:
        self._spec = spec
        self._files = spec.files
        self._manifest = spec.directory / ".forebay" / f"{spec.name}.json"
        self._epoch = 0
        self._number = 0
        self._writers: dict[str, FileWriter] = {}
        self._complete: list[tuple[str, Path]] = []
        """(relative directory, file in progress) of closed and synced files."""

    # -- recovery -----------------------------------------------------------------------------------------------

    def recover(self) -> int | None:
        kill_point("filesink.recover.before")
        self._files.mkdir(self._manifest.parent)
        entry = self._read_manifest()
        self._carry_out(entry)
        self._epoch = int(entry["epoch"]) + 1
        self._write_manifest({"epoch": self._epoch, "checkpoint": entry["checkpoint"], "renames": []})
        for path in self._in_progress(self._spec.directory):
            self._files.remove(path)
        kill_point("filesink.recover.after")
        checkpoint: int | None = entry["checkpoint"]
        return checkpoint

    def _read_manifest(self) -> dict[str, Any]:
        if not self._files.exists(self._manifest):
            return {"epoch": 0, "checkpoint": None, "renames": []}
        try:
            entry: dict[str, Any] = json.loads(self._files.read(self._manifest))
        except ValueError as error:
            raise StateError(f"manifest '{self._manifest}' cannot be read", detail=str(error)) from None
        return entry

    def _write_manifest(self, entry: dict[str, Any]) -> None:
        temporary = self._manifest.with_suffix(".tmp")
        self._files.write(temporary, json.dumps(entry).encode())
        self._files.replace(temporary, self._manifest)

    def _in_progress(self, directory: Path, depth: int = 0) -> Iterator[Path]:
        """Files that this sink has begun and never shown."""
        pattern = re.compile(rf"\.part-{re.escape(self._spec.name)}-\d+-\d+\.inprogress")
        for name in self._files.list(directory):
            if pattern.fullmatch(name):
                yield directory / name
            elif "=" in name and depth < len(self._spec.partitioned_by):
                yield from self._in_progress(directory / name, depth + 1)

    # -- rows ---------------------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        spec = self._spec
        batch = one_by_one(batch)
        if spec.changelog is Changelog.APPEND and batch.weights is not None and (batch.weights < 0).any():
            raise DataError(
                "a deletion cannot be written to an append-only file", hint="use a format that carries changes"
            )
        for relative, at in split_rows(batch.rows, spec.partitioned_by, spec.default_partition):
            mine = batch if at is None else batch.take(at)
            rows = pa.RecordBatch.from_arrays([mine.rows.column(n) for n in spec.schema.names], schema=spec.schema)
            writer = self._writers.get(relative) or self._begin(relative)
            writer.write(mine.with_rows(rows))
            old = spec.clock.monotonic() - writer.opened >= spec.roll_seconds
            if writer.nbytes >= spec.roll_bytes or old:
                self._end(relative)

    def _begin(self, relative: str) -> FileWriter:
        spec = self._spec
        directory = spec.directory / relative
        self._files.mkdir(directory)
        path = directory / f".part-{spec.name}-{self._epoch}-{self._number}.inprogress"
        self._number += 1
        now = spec.clock.monotonic()
        writer: FileWriter
        if spec.encoder is None:
            writer = ParquetWriter(self._files, path, now, spec.schema, spec.compression)
        else:
            writer = LineWriter(self._files, path, now, spec.encoder)
        self._writers[relative] = writer
        return writer

    def _end(self, relative: str) -> None:
        """Close a file and make its content durable."""
        writer = self._writers.pop(relative)
        kill_point("filesink.data.before")
        writer.finish()
        if writer.nbytes:
            self._files.sync(writer.path)
            self._complete.append((relative, writer.path))
        kill_point("filesink.data.after")

    # -- commit -------------------------------------------------------------------------------------------------

    def commit(self, checkpoint: int) -> None:
        if self._read_manifest()["epoch"] != self._epoch:
            raise ConnectorError(
                f"sink '{self._spec.name}' was taken over by another writer",
                retryable=False,
                hint="stop one of the two jobs",
            )
        for relative in list(self._writers):
            self._end(relative)
        for directory in {path.parent for _, path in self._complete}:
            self._files.sync_dir(directory)
        name = f"part-{self._spec.name}-{checkpoint:010d}"
        renames = [
            [str(path.relative_to(self._spec.directory)), str(Path(relative) / f"{name}-{i}.{self._spec.extension}")]
            for i, (relative, path) in enumerate(self._complete)
        ]
        entry = {"epoch": self._epoch, "checkpoint": checkpoint, "renames": renames}
        kill_point("filesink.manifest.before")
        self._write_manifest(entry)
        kill_point("filesink.manifest.after")
        self._complete = []
        self._carry_out(entry)

    def _carry_out(self, entry: dict[str, Any]) -> None:
        """Rename what a manifest has decided, where that is not done yet."""
        root = self._spec.directory
        for source, target in entry["renames"]:
            if self._files.exists(root / source):
                kill_point("filesink.rename.before")
                self._files.replace(root / source, root / target)
                kill_point("filesink.rename.after")
        if self._spec.success_file is None:
            return
        for directory in sorted({(root / target).parent for _, target in entry["renames"]}):
            kill_point("filesink.success.before")
            self._files.write(directory / self._spec.success_file, b"")
            self._files.sync_dir(directory)
            kill_point("filesink.success.after")
