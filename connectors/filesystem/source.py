"""Reading a directory: a split per file, in path order, each positioned by byte offset (lines) or row number (Parquet).

The position of a file that is read to its end is "done". Files and directories that begin with '.' or '_' are hidden. With
'source.monitor-interval' new files are found while running, and a file is read once, whatever happens to it later.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from forebay.connectors import options as read
from forebay.connectors.filesystem.options import (
    DEFAULT_NAME,
    METADATA,
    MONITOR,
    PATTERN,
    check_partitions,
    file_schema,
    file_system,
)
from forebay.connectors.filesystem.partitions import values_of
from forebay.connectors.filesystem.readers import FileChunk, FileReader, LineReader, ParquetReader, constant
from forebay.connectors.records import read_fields, read_names, value_format, widened
from forebay.engine.batch import Batch
from forebay.engine.connector import (
    Changelog,
    DeadLetter,
    Decoder,
    Fetched,
    Position,
    Reader,
    Registry,
    Source,
    TableSpec,
)
from forebay.engine.errors import ConnectorError, OptionError
from forebay.engine.files import Clock

DONE = "done"


@dataclass(slots=True)
class _File:
    """One split."""

    name: str
    """Path relative to the table's."""
    info: Any
    """pyarrow.fs.FileInfo; None for a file of a checkpoint that is no longer there."""
    position: int = 0
    done: bool = False
    limit: int | None = None
    open: FileReader | None = None


class FileTable:
    """What a table's options say about its files."""

    def __init__(self, registry: Registry, spec: TableSpec) -> None:
        check_partitions(spec)
        self.spec = spec
        self.schema = spec.schema()
        self.contents = file_schema(spec)
        self.system, self.root = file_system(spec)
        self.default = read.required(spec.options, DEFAULT_NAME)
        pattern = read.text(spec.options, PATTERN)
        self.pattern = re.compile(pattern) if pattern else None
        self._wanted = read_names(spec)
        self._metadata = [c for c in spec.columns if c.metadata]
        chosen = value_format(registry, spec)
        self.parquet = chosen.format.name == "parquet"
        self.changelog = Changelog.APPEND
        if not self.parquet:
            if chosen.format.decoder is None:
                raise OptionError(f"format '{chosen.format.name}' cannot be read")
            fields = read_fields(spec, chosen.format, list(self.contents))
            self._decoder: Decoder = chosen.format.decoder(pa.schema(fields), chosen.options)
            self.changelog = self._decoder.changelog

    def reads(self, column: str) -> bool:
        return self._wanted is None or column in self._wanted

    def list(self) -> list[Any]:
        """The files that are there, in path order.

        Raises:
            ConnectorError: the path is missing or cannot be read.
        """
        try:
            root = self.system.get_file_info(self.root)
            if root.type == pafs.FileType.File:
                return [root]
            if root.type == pafs.FileType.NotFound:
                raise ConnectorError(f"there is no '{self.root}'", hint="check option 'path'")
            found = self.system.get_file_info(pafs.FileSelector(self.root, recursive=True))
        except OSError as error:
            raise ConnectorError(f"cannot list '{self.root}'", detail=str(error)) from None
        return sorted((f for f in found if self._shown(f)), key=lambda f: f.path)

    def _shown(self, info: Any) -> bool:
        if info.type != pafs.FileType.File:
            return False
        hidden = any(part[:1] in "._" for part in self.name(info.path).split("/"))
        return not hidden and (self.pattern is None or self.pattern.fullmatch(info.path) is not None)

    def name(self, path: str) -> str:
        """The path relative to the table's; the file's own name if the table is that file."""
        return path.removeprefix(self.root).lstrip("/") or path.rpartition("/")[2]

    def path(self, name: str) -> str:
        inside = f"{self.root.rstrip('/')}/{name}"
        return inside if self.system.get_file_info(self.root).type == pafs.FileType.Directory else self.root

    def open(self, file: _File) -> FileReader:
        """Open a file at its position."""
        if self.parquet:
            return ParquetReader(self.system, file.info.path, file.name, self.contents, self.reads, file.position)
        return LineReader(self.system, file.info.path, file.name, self._decoder, file.position)

    def complete(self, file: _File, fetched: Fetched) -> Fetched:
        """The file's rows in the table's columns: with partition values and metadata, NULL where nobody reads."""
        rows = fetched.batch.rows
        spec = self.spec
        columns = dict(zip(rows.schema.names, rows.columns))
        partition = values_of(file.name, spec.physical(), spec.partitioned_by, self.default)
        columns |= dict(zip(partition, constant(list(partition.values()), rows.num_rows)))
        for column in self._metadata:
            key = column.metadata or ""
            value = pa.scalar(_file_metadata(file.info, key), METADATA[key]).cast(column.type)
            columns[column.name] = constant([value], rows.num_rows)[0]
        arrays = [
            widened(columns[f.name], f.type) if f.name in columns else pa.nulls(rows.num_rows, f.type)
            for f in self.schema
        ]
        batch = Batch(pa.RecordBatch.from_arrays(arrays, schema=self.schema), fetched.batch.weights)
        unknown = {n: c for n, c in fetched.unknown_fields.items() if n not in self.schema.names}
        return Fetched(
            batch, fetched.split, fetched.dead, fetched.schema_changes, unknown, fetched.nbytes, fetched.records
        )


def _file_metadata(info: Any, key: str) -> Any:
    match key:
        case "file.path":
            return info.path
        case "file.name":
            return info.base_name
        case "file.size":
            return info.size
    return None if info.mtime_ns is None else info.mtime_ns // 1_000_000


class FileTableReader(Reader):
    """Reads file after file."""

    def __init__(
        self, table: FileTable, positions: Mapping[str, Position] | None, interval: float | None, clock: Clock
    ) -> None:
        """`interval`: seconds between two looks for new files; None for a bounded input, which a checkpoint fixes."""
        self._table = table
        self._interval = interval
        self._clock = clock
        self._limited = False
        self._files: list[_File] = []
        self._known: set[str] = set()
        self._looked = clock.monotonic()
        infos = {table.name(i.path): i for i in table.list()} if positions is None or interval is not None else {}
        for name, position in (positions or {}).items():
            info = infos.pop(name, None) or self._info(name)
            self._add(_File(name, info, 0 if position == DONE else int(position), done=position == DONE))
        for name, info in infos.items():
            self._add(_File(name, info))

    def _info(self, name: str) -> Any:
        return self._table.system.get_file_info(self._table.path(name))

    def _add(self, file: _File) -> None:
        self._known.add(file.name)
        self._files.append(file)
        if self._limited:
            file.limit = file.position

    def splits(self) -> list[str]:
        return [f.name for f in self._files]

    def positions(self) -> dict[str, Position]:
        return {f.name: DONE if f.done else f.position for f in self._files}

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self._limited = positions is not None
        for file in self._files:
            given = file.position if positions is None else positions.get(file.name, file.position)
            file.limit = None if positions is None or given == DONE else int(given)

    def finished(self) -> bool:
        if self._interval is not None and not self._limited:
            return False
        return all(self._over(f) for f in self._files)

    @staticmethod
    def _over(file: _File) -> bool:
        return file.done or (file.limit is not None and file.position >= file.limit)

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        deadline = self._clock.monotonic() + timeout
        while True:
            for index, file in enumerate(self._files):
                while not self._over(file):
                    fetched = self._read(index, file, max_rows)
                    if fetched is not None:
                        return fetched
            if self._interval is None or self._limited:
                return None
            if self._look():
                continue
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, max(self._looked + self._interval - self._clock.monotonic(), 0.001)))

    def _look(self) -> bool:
        """Add the files that are new, once per interval; whether there are any."""
        assert self._interval is not None
        if self._clock.monotonic() - self._looked < self._interval:
            return False
        known = len(self._files)
        self._looked = self._clock.monotonic()
        for info in self._table.list():
            name = self._table.name(info.path)
            if name not in self._known:
                self._add(_File(name, info))
        return len(self._files) > known

    def _read(self, index: int, file: _File, max_rows: int) -> Fetched | None:
        """Some rows of a file, or what is wrong with it; None at its end."""
        try:
            chunk = self._chunk(file, max_rows)
            if chunk is None:
                return None
            fetched = self._table.complete(file, chunk.fetched)
        except (pa.ArrowInvalid, ValueError) as error:  # this file cannot be read; the others can
            self._close(file)
            file.done = True
            dead = DeadLetter(file.name, 0, file.position, str(error))
            empty = pa.RecordBatch.from_pylist([], schema=self._table.schema)
            fetched = Fetched(Batch(empty), None, (dead,), records=1)
        except OSError as error:
            self._close(file)
            raise ConnectorError(f"cannot read '{file.name}'", detail=str(error)) from None
        split = None if index == 0 else np.full(fetched.batch.num_rows, index, np.int32)
        return Fetched(
            fetched.batch,
            split,
            fetched.dead,
            fetched.schema_changes,
            fetched.unknown_fields,
            fetched.nbytes,
            fetched.records,
        )

    def _chunk(self, file: _File, max_rows: int) -> FileChunk | None:
        if file.open is None:
            file.open = self._table.open(file)
        chunk = file.open.read(max_rows, file.limit)
        if chunk is None:
            self._close(file)
            if file.limit is not None:  # up to the limit there is nothing more; behind it may be
                file.position = file.limit
            else:
                file.done = True
            return None
        file.position = chunk.position
        return chunk

    def _close(self, file: _File) -> None:
        if file.open is not None:
            file.open.close()
            file.open = None

    def close(self) -> None:
        for file in self._files:
            self._close(file)


class FileSource(Source):
    """A table over the files under a path."""

    def __init__(self, registry: Registry, spec: TableSpec, clock: Clock) -> None:
        self._table = FileTable(registry, spec)
        self._clock = clock
        self._interval = read.duration(spec.options, MONITOR) if MONITOR.name in spec.options else None
        self.schema = self._table.schema
        self.changelog = self._table.changelog
        self.bounded = self._interval is None

    def reader(self, positions: Mapping[str, Position] | None) -> FileTableReader:
        return FileTableReader(self._table, positions, self._interval, self._clock)
