"""Copies of savepoints at any URI that `pyarrow.fs` opens: file://, s3://, hdfs://, gs://.

    <uri>/<name>.savepoint                  the savepoint's record and the list of its files, under a checksum
    <uri>/files/<crc>-<size>-<name>         the files of all savepoints there: equal ones are there once

A file is named by its content, so a copy sends only what is new, and one that was cut off goes on where it stopped. The record is
renamed into place last: a savepoint is there whole or not at all. Several warehouses need directories of their own.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from forebay.engine.errors import CatalogError, ConnectorError, StateError, nearest
from forebay.engine.files import Files, declare, kill_point
from forebay.engine.runtime.checkpoint import sealed, unsealed

FORMAT = 1
_PIECE = 8 << 20
_SUFFIX = ".savepoint"

declare(
    "savepoint.copy.before",
    "savepoint.copied",
    "savepoint.publish.before",
    "savepoint.publish.after",
    "savepoint.withdraw.before",
    "restore.fetch.before",
)


@dataclass(frozen=True, slots=True)
class Copy:
    """One file of a savepoint: its path in the warehouse, and what it holds."""

    path: str
    size: int
    crc: int

    @property
    def name(self) -> str:
        """Its name among the files at the URI."""
        return f"{self.crc:08x}-{self.size}-{Path(self.path).name}"


class Copies:
    """Reads and writes savepoints at URIs. Files that it is given are never changed by anybody."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._sums: dict[tuple[str, int], int] = {}
        """Checksums of files that were copied before."""

    def has(self, location: str, name: str) -> bool:
        """Whether there is a savepoint of that name.

        Raises:
            ConnectorError: the location cannot be read.
        """
        with _Place(location) as place:
            return place.exists(name + _SUFFIX)

    def put(self, location: str, name: str, record: Mapping[str, Any], sources: Mapping[str, Path]) -> int:
        """Copy files (path in the warehouse → where it is now) and then the record; the bytes that were new.

        Raises:
            ConnectorError: the location cannot be written.
        """
        sent = 0
        with _Place(location) as place:
            copies = []
            for path, source in sources.items():
                copy = self._copy_of(path, source)
                copies.append(copy)
                kill_point("savepoint.copy.before")
                if not place.has_file(copy):
                    place.write(f"files/{copy.name}", source, self.files)
                    sent += copy.size
                kill_point("savepoint.copied")
            body = {"format": FORMAT, "record": record, "files": [asdict(c) for c in copies]}
            kill_point("savepoint.publish.before")
            place.publish(name + _SUFFIX, sealed(body))
            kill_point("savepoint.publish.after")
        return sent

    def _copy_of(self, path: str, source: Path) -> Copy:
        size = self.files.size(source)
        if (path, size) not in self._sums:
            self._sums[path, size] = self.files.checksum(source)
        return Copy(path, size, self._sums[path, size])

    def get(self, location: str, name: str) -> tuple[dict[str, Any], list[Copy]]:
        """The record of a savepoint and its files.

        Raises:
            CatalogError: there is none of that name.
            StateError: the record is damaged.
            ConnectorError: the location cannot be read.
        """
        with _Place(location) as place:
            if not place.exists(name + _SUFFIX):
                known = [n.removesuffix(_SUFFIX) for n in place.names() if n.endswith(_SUFFIX)]
                close = nearest(name, known)
                hint = f"did you mean {close}?" if close else f"there are: {', '.join(known) or 'none'}"
                raise CatalogError(f"there is no savepoint '{name}' at {without_secrets(location)}", hint=hint)
            body = unsealed(place.read(name + _SUFFIX), FORMAT)
        return body["record"], [Copy(**c) for c in body["files"]]

    def fetch(self, location: str, copy: Copy, target: Path) -> None:
        """Bring one file here, synced.

        Raises:
            StateError: it is not what was copied.
            ConnectorError: it cannot be read.
        """
        temporary = target.with_name(target.name + ".tmp")
        kill_point("restore.fetch.before")
        self.files.write(temporary, b"")  # also where nothing is to come: a state that did not change
        crc = 0
        with _Place(location) as place:
            for piece in place.pieces(f"files/{copy.name}"):
                crc = zlib.crc32(piece, crc)
                self.files.append(temporary, piece, sync=False)
        if crc != copy.crc:
            raise StateError(f"{copy.path} is damaged at {without_secrets(location)} (checksum); nothing was changed")
        self.files.sync(temporary)
        self.files.replace(temporary, target)

    def drop(self, location: str, name: str) -> None:
        """Remove a savepoint, and those of its files that no other one there has.

        Raises:
            ConnectorError: the location cannot be written.
        """
        with _Place(location) as place:
            if not place.exists(name + _SUFFIX):
                return
            mine = {f"files/{Copy(**c).name}" for c in unsealed(place.read(name + _SUFFIX), FORMAT)["files"]}
            kill_point("savepoint.withdraw.before")
            place.remove(name + _SUFFIX)
            for other in place.names():
                if other.endswith(_SUFFIX):
                    mine -= {f"files/{Copy(**c).name}" for c in unsealed(place.read(other), FORMAT)["files"]}
            for path in sorted(mine):
                place.remove(path)


class _Place:
    """An open directory at a URI. Within it, errors of the file system are ConnectorErrors that name it."""

    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> _Place:
        try:
            self._fs, self._root = fs.FileSystem.from_uri(self._location)
        except (ValueError, OSError) as error:
            raise ConnectorError(
                f"'{without_secrets(self._location)}' cannot be opened: {error}",
                hint="a URI such as file:///backup/forebay or s3://bucket/forebay?region=eu-west-1",
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise ConnectorError(f"'{without_secrets(self._location)}' failed: {error}", retryable=True) from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @property
    def _local(self) -> bool:
        return isinstance(self._fs, fs.LocalFileSystem)

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._fs.get_file_info(self._path(name)).type == fs.FileType.File)

    def has_file(self, copy: Copy) -> bool:
        """Whether the file is there whole."""
        found = self._fs.get_file_info(self._path(f"files/{copy.name}"))
        return bool(found.type == fs.FileType.File and found.size == copy.size)

    def names(self) -> list[str]:
        """Names of the files in the directory itself."""
        found = self._fs.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return sorted(f.base_name for f in found if f.type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """All of a file."""
        with self._fs.open_input_stream(self._path(name)) as stream:
            return bytes(stream.read())

    def pieces(self, name: str) -> Iterator[bytes]:
        """A file bit by bit."""
        with self._fs.open_input_stream(self._path(name)) as stream:
            while piece := bytes(stream.read(_PIECE)):
                yield piece

    def write(self, name: str, source: Path, files: Files) -> None:
        """Send a file; it is durable on return."""
        path = self._path(name)
        self._make_directory(path)
        size = files.size(source)
        with self._fs.open_output_stream(path) as stream:
            for at in range(0, size, _PIECE):
                stream.write(files.read_at(source, at, _PIECE))
        self._make_durable(path)

    def publish(self, name: str, data: bytes) -> None:
        """Put a small file there in one step."""
        path = self._path(name)
        self._make_directory(path)
        with self._fs.open_output_stream(path + ".tmp") as stream:
            stream.write(data)
        self._make_durable(path + ".tmp")
        self._fs.move(path + ".tmp", path)
        self._make_durable(path)

    def _make_directory(self, path: str) -> None:
        """Object stores have no directories."""
        if self._fs.type_name in ("local", "hdfs"):
            self._fs.create_dir(path.rpartition("/")[0], recursive=True)

    def _make_durable(self, path: str) -> None:
        """Where we own the disk, sync; an object store has done it when it answers."""
        if self._local:
            disk = Files()
            disk.sync(Path(path))
            disk.sync_dir(Path(path).parent)

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        if self.exists(name):
            self._fs.delete_file(self._path(name))


def without_secrets(location: str) -> str:
    """A URI to show: keys and passwords are stars."""
    shown = re.sub(r"(?<=://)[^/@]*@", "***@", location)
    return re.sub(r"(?i)([?&][^=&]*(?:key|secret|token|password)[^=&]*=)[^&]*", r"\1***", shown)
