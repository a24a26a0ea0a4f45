"""Checkpoints: one durable cut of offsets, state and outboxes at an epoch boundary.

`checkpoints/state-<id>.bin` holds what the states changed in one interval, as Arrow IPC streams one after the other;
`manifest-<id>.json` names, for every state, the chain of pieces to load in order, each with its checksum. A state whose
chain has grown past twice its size is written in full and starts a new chain; files that no kept manifest names go.
The manifest is renamed into place last: that instant is the checkpoint.
"""

from __future__ import annotations

import io
import json
import logging
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from forebay.engine.errors import StateError
from forebay.engine.files import PIECE, Files, declare, kill_point
from forebay.engine.state import Change, State, whole

log = logging.getLogger("forebay")
FORMAT = 1

declare(
    "checkpoint.state.before",
    "checkpoint.state.after",
    "checkpoint.manifest.before",
    "checkpoint.rename.before",
    "checkpoint.rename.after",
    "checkpoint.prune.before",
    "restore.manifest",
    "restore.state",
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One interval's changes of one state."""

    file: str
    offset: int
    size: int
    crc: int

    def to_json(self) -> list[Any]:
        return [self.file, self.offset, self.size, self.crc]


@dataclass(slots=True)
class Capture:
    """What the driver froze at the boundary, on its way to disk."""

    id: int
    meta: dict[str, Any]
    """Everything but state: scans, placements, outboxes, log positions."""
    states: dict[str, tuple[bool, list[Change]]] = field(default_factory=dict)
    """Per state key: (full, changes)."""
    keep: Callable[[int], None] = lambda checkpoint: None
    """Called with the id once the checkpoint is durable, before a later one can make anything of it go."""


class CheckpointStore:
    """Writes and reads checkpoints in one directory. `capture` runs on the driver, `write` in the background."""

    def __init__(self, directory: Path, files: Files) -> None:
        self.directory = directory
        self.files = files
        self._chains: dict[str, list[Piece]] = {}
        self._unsaved: dict[str, tuple[bool, list[Change]]] = {}
        """What was captured and is not durable: states tell each change once, so the next checkpoint has what this one lost."""
        self.last_bytes = 0
        self.retained = 2
        """Checkpoints kept: the newest, and those to fall back to when it is damaged."""
        files.mkdir(directory)

    def capture(self, checkpoint: int, states: Mapping[str, State], meta: dict[str, Any]) -> Capture:
        """Freeze the changes of all states; `meta` is any JSON value."""
        capture = Capture(checkpoint, meta)
        for key, state in states.items():
            was_full, before = self._unsaved.get(key, (False, []))
            too_much = sum(b.nbytes for b in before) > state.nbytes()
            full = was_full or too_much or self._wants_full(key, state)
            changes = state.changes(full)
            capture.states[key] = (full, list(changes) if full else [*before, *changes])
        self._unsaved = capture.states
        return capture

    def _wants_full(self, key: str, state: State) -> bool:
        chain = self._chains.get(key)
        if not chain:
            return True
        return len(chain) > 64 or sum(p.size for p in chain) > 2 * state.nbytes() + (1 << 20)

    def write(self, capture: Capture) -> None:
        """Make the capture durable: it is the newest checkpoint when this returns.

        Raises:
            OSError: it is not; what it had goes into the next one.
        """
        name = f"state-{capture.id:012d}.bin"
        try:
            self._write(capture, name)
        except OSError:
            self._tidy(capture.id, name)
            raise
        self._unsaved = {}
        self._prune(capture.id)

    def _write(self, capture: Capture, name: str) -> None:
        data = _StateFile(self.files, self.directory / name)
        chains: dict[str, list[Piece]] = {}
        for key, (full, changes) in capture.states.items():
            before = [] if full else self._chains.get(key, [])
            chains[key] = [*before, data.add(changes)] if changes or full else before
        kill_point("checkpoint.state.before")
        data.flush()
        self.files.sync(data.path)
        kill_point("checkpoint.state.after")
        manifest = {
            "format": FORMAT,
            "id": capture.id,
            "states": {key: [p.to_json() for p in chain] for key, chain in chains.items()},
            **capture.meta,
        }
        size = self.publish(manifest)
        self._chains = chains
        self.last_bytes = data.size + size

    def _tidy(self, checkpoint: int, name: str) -> None:
        """Give the space of a checkpoint back that failed; not where its manifest has its name and only that is not synced."""
        self.files.remove(self.directory / "manifest.tmp")
        if not self.files.exists(self._manifest(checkpoint)):
            self.files.remove(self.directory / name)

    def publish(self, manifest: Mapping[str, Any]) -> int:
        """Make a manifest, whose files are all there, a checkpoint; its size in bytes."""
        data = sealed(manifest)
        temporary = self.directory / "manifest.tmp"
        kill_point("checkpoint.manifest.before")
        self.files.write(temporary, data)
        kill_point("checkpoint.rename.before")
        self.files.replace(temporary, self._manifest(manifest["id"]))
        kill_point("checkpoint.rename.after")
        return len(data)

    def _manifest(self, checkpoint: int) -> Path:
        return self.directory / f"manifest-{checkpoint:012d}.json"

    def _prune(self, newest: int) -> None:
        kill_point("checkpoint.prune.before")
        manifests = self._manifests()
        for name in manifests[: -self.retained]:
            self.files.remove(self.directory / name)
        needed = {f"state-{newest:012d}.bin"}
        for manifest in self._readable():
            needed |= files_of(manifest)
        for name in self.files.list(self.directory):
            if name.startswith("state-") and name not in needed:
                self.files.remove(self.directory / name)

    def forget_before(self, checkpoint: int) -> None:
        """Drop the manifests of earlier checkpoints: there is no way back to them."""
        for name in self._manifests():
            if _number(name) < checkpoint:
                self.files.remove(self.directory / name)

    def _manifests(self) -> list[str]:
        """Names of the manifests, oldest first."""
        return [n for n in self.files.list(self.directory) if n.startswith("manifest-") and n.endswith(".json")]

    def oldest(self) -> int:
        """The oldest checkpoint that is kept; 0 if there is none."""
        return min(map(_number, self._manifests()), default=0)

    def newest(self) -> int:
        """The newest checkpoint, readable or not; 0 if there is none."""
        return max(map(_number, self._manifests()), default=0)

    def segments(self) -> set[int]:
        """Numbers of the cold segments that the kept checkpoints need."""
        return {segment for manifest in self._readable() for segment in manifest.get("segments", ())}

    def _readable(self) -> Iterator[dict[str, Any]]:
        """The manifests that are kept, but damaged ones: no one can go back to those."""
        for name in self._manifests():
            try:
                yield self._read(name)
            except StateError as error:
                log.warning("%s: %s", name, error.message)

    def manifest(self, checkpoint: int) -> dict[str, Any]:
        """The manifest of a checkpoint that is kept."""
        return self._read(self._manifest(checkpoint).name)

    def latest(
        self, check_segments: Callable[[Collection[int]], None] = lambda segments: None
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest readable manifest (None if there was never a checkpoint), and what was wrong with newer ones.

        `check_segments` raises a StateError if one of these cold segments is not whole.

        Raises:
            StateError: there are manifests, and none can be read.
        """
        problems = []
        for name in reversed(self._manifests()):
            kill_point("restore.manifest")
            try:
                manifest = self._read(name)
                self.check(manifest)
                check_segments(manifest.get("segments", ()))
            except (StateError, OSError) as error:
                problems.append(f"{name}: {error.message if isinstance(error, StateError) else error}")
                continue
            self._chains = {key: [Piece(*p) for p in chain] for key, chain in manifest["states"].items()}
            return manifest, problems
        if problems:
            raise StateError(
                "no checkpoint can be read; nothing was changed",
                detail="; ".join(problems),
                hint=f"forebay restore {self.directory.parent} SAVEPOINT, or bring it back from a copy, or move it away to "
                "start from the sources",
            )
        return None, []

    def _read(self, name: str) -> dict[str, Any]:
        return unsealed(self.files.read(self.directory / name), FORMAT)

    def check(self, manifest: Mapping[str, Any]) -> None:
        """Raises:
        StateError: a piece is damaged.
        """
        for key, chain in manifest["states"].items():
            for file, offset, size, crc in chain:
                if self.files.checksum(self.directory / file, offset, size) != crc:
                    raise StateError(f"state '{key}' in {file} is damaged (checksum)")

    def load(self, states: Mapping[str, State]) -> None:
        """Load each state from its chain in the manifest that `latest` returned; states without one stay empty."""
        for key, state in states.items():
            kill_point("restore.state")
            chain = self._chains.get(key)
            if chain:
                state.load(_Chain(self.files, self.directory, chain))


class _StateFile:
    """Changes of states in one file, one IPC stream each, for their schemas may differ. Little of it is ever in memory."""

    def __init__(self, files: Files, path: Path) -> None:
        self.path = path
        self.size = 0
        self._files = files
        self._buffer = bytearray()
        files.remove(path)  # of a checkpoint of this number that came to nothing

    def add(self, changes: Iterable[Change]) -> Piece:
        """Write changes of one state, and describe where they lie."""
        start, crc = self.size, 0
        for change in changes:
            stream = pa.BufferOutputStream()
            batch = whole(change)
            with pa.ipc.new_stream(stream, batch.schema) as writer:
                writer.write_batch(batch)
            data = stream.getvalue()
            crc = zlib.crc32(data, crc)
            self.size += data.size
            self._buffer += data
            if len(self._buffer) > PIECE:
                self.flush()
        return Piece(self.path.name, start, self.size - start, crc)

    def flush(self) -> None:
        """Write the rest."""
        self._files.append(self.path, bytes(self._buffer), sync=False)
        self._buffer = bytearray()


class _Chain:
    """The changes of one state in its pieces, read anew each time that they are gone through."""

    def __init__(self, files: Files, directory: Path, pieces: Sequence[Piece]) -> None:
        self._files = files
        self._directory = directory
        self._pieces = pieces

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for piece in self._pieces:
            data = _Range(self._files, self._directory / piece.file, piece.offset, piece.size)
            while data.tell() < piece.size:
                yield from pa.ipc.open_stream(data)


class _Range(io.RawIOBase):
    """Some bytes of a file, to be read."""

    def __init__(self, files: Files, path: Path, offset: int, size: int) -> None:
        self._files = files
        self._path = path
        self._offset = offset
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._at
        data = self._files.read_at(self._path, self._offset + self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def sealed(value: Mapping[str, Any]) -> bytes:
    """A JSON value under its checksum."""
    body = json.dumps(value, sort_keys=True).encode()
    return b"%08x\n" % zlib.crc32(body) + body


def unsealed(data: bytes, version: int) -> dict[str, Any]:
    """The value that `sealed` made.

    Raises:
        StateError: it is damaged, or of another format than `version`.
    """
    head, _, body = data.partition(b"\n")
    if head != b"%08x" % zlib.crc32(body):
        raise StateError("the manifest is damaged (checksum)")
    value: dict[str, Any] = json.loads(body)
    if value["format"] != version:
        raise StateError(
            f"the manifest has format {value['format']}, this version reads {version}",
            hint="open the warehouse with the version that wrote it",
        )
    return value


def files_of(manifest: Mapping[str, Any]) -> set[str]:
    """Names of the state files that a manifest needs."""
    return {piece[0] for chain in manifest["states"].values() for piece in chain}


def _number(manifest: str) -> int:
    return int(manifest[len("manifest-") : -len(".json")])
