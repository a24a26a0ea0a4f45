"""Checkpoints: one durable cut of offsets, state and outboxes at an epoch boundary.

`checkpoints/state-<id>.bin` holds what the states changed in one interval, as Arrow IPC streams one after the other;
`manifest-<id>.json` names, for every state, the chain of pieces to load in order, each with its checksum. A state whose
chain has grown past twice its size is written in full and starts a new chain; files that no kept manifest names go.
The manifest is renamed into place last: that instant is the checkpoint.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from forebay.engine.errors import StateError
from forebay.engine.files import Files, declare, kill_point
from forebay.engine.state import State

FORMAT = 1
KEPT = 2
"""Manifests kept: the newest, and one to fall back to when it is damaged."""

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
    states: dict[str, tuple[bool, list[pa.RecordBatch]]] = field(default_factory=dict)
    """Per state key: (full, batches)."""


class CheckpointStore:
    """Writes and reads checkpoints in one directory. `capture` runs on the driver, `write` in the background."""

    def __init__(self, directory: Path, files: Files) -> None:
        self.directory = directory
        self.files = files
        self._chains: dict[str, list[Piece]] = {}
        self.last_bytes = 0
        files.mkdir(directory)

    def capture(self, checkpoint: int, states: Mapping[str, State], meta: dict[str, Any]) -> Capture:
        """Freeze the changes of all states; `meta` is any JSON value."""
        capture = Capture(checkpoint, meta)
        for key, state in states.items():
            full = self._wants_full(key, state)
            capture.states[key] = (full, state.changes(full))
        return capture

    def _wants_full(self, key: str, state: State) -> bool:
        chain = self._chains.get(key)
        if not chain:
            return True
        return len(chain) > 64 or sum(p.size for p in chain) > 2 * state.nbytes() + (1 << 20)

    def write(self, capture: Capture) -> None:
        """Make the capture durable: it is the newest checkpoint when this returns."""
        name = f"state-{capture.id:012d}.bin"
        data = io.BytesIO()
        chains: dict[str, list[Piece]] = {}
        for key, (full, batches) in capture.states.items():
            before = [] if full else self._chains.get(key, [])
            chains[key] = [*before, _pack(data, name, batches)] if batches or full else before
        kill_point("checkpoint.state.before")
        self.files.write(self.directory / name, data.getbuffer())
        kill_point("checkpoint.state.after")
        manifest = {
            "format": FORMAT,
            "id": capture.id,
            "states": {key: [p.to_json() for p in chain] for key, chain in chains.items()},
            **capture.meta,
        }
        body = json.dumps(manifest, sort_keys=True).encode()
        temporary = self.directory / "manifest.tmp"
        kill_point("checkpoint.manifest.before")
        self.files.write(temporary, b"%08x\n" % zlib.crc32(body) + body)
        kill_point("checkpoint.rename.before")
        self.files.replace(temporary, self._manifest(capture.id))
        kill_point("checkpoint.rename.after")
        self._chains = chains
        self.last_bytes = data.tell() + len(body)
        self._prune(capture.id)

    def _manifest(self, checkpoint: int) -> Path:
        return self.directory / f"manifest-{checkpoint:012d}.json"

    def _prune(self, newest: int) -> None:
        kill_point("checkpoint.prune.before")
        names = self.files.list(self.directory)
        manifests = [n for n in names if n.startswith("manifest-") and n.endswith(".json")]
        for name in manifests[:-KEPT]:
            self.files.remove(self.directory / name)
        needed = {f"state-{newest:012d}.bin"}
        for name in manifests[-KEPT:]:
            needed |= {p[0] for chain in self._read(name)["states"].values() for p in chain}
        for name in names:
            if name.startswith("state-") and name not in needed:
                self.files.remove(self.directory / name)

    def segments(self) -> set[int]:
        """Numbers of the cold segments that the kept checkpoints need."""
        names = [n for n in self.files.list(self.directory) if n.startswith("manifest-") and n.endswith(".json")]
        return {segment for name in names for segment in self._read(name).get("segments", ())}

    def latest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest readable manifest (None if there was never a checkpoint), and what was wrong with newer ones.

        Raises:
            StateError: there are manifests, and none can be read.
        """
        names = [n for n in self.files.list(self.directory) if n.startswith("manifest-") and n.endswith(".json")]
        problems = []
        for name in reversed(names):
            kill_point("restore.manifest")
            try:
                manifest = self._read(name)
                self._check(manifest)
            except (StateError, OSError) as error:
                problems.append(f"{name}: {error}")
                continue
            self._chains = {key: [Piece(*p) for p in chain] for key, chain in manifest["states"].items()}
            return manifest, problems
        if problems:
            raise StateError(
                "no checkpoint can be read; nothing was changed",
                detail="; ".join(problems),
                hint=f"restore {self.directory} from a copy, or move it away to start from the sources",
            )
        return None, []

    def _read(self, name: str) -> dict[str, Any]:
        raw = self.files.read(self.directory / name)
        head, _, body = raw.partition(b"\n")
        if head != b"%08x" % zlib.crc32(body):
            raise StateError("the manifest is damaged (checksum)")
        manifest: dict[str, Any] = json.loads(body)
        if manifest["format"] != FORMAT:
            raise StateError(
                f"the manifest has format {manifest['format']}, this version reads {FORMAT}",
                hint="open the warehouse with the version that wrote it",
            )
        return manifest

    def _check(self, manifest: dict[str, Any]) -> None:
        contents: dict[str, bytes] = {}
        for key, chain in manifest["states"].items():
            for file, offset, size, crc in chain:
                if file not in contents:
                    contents[file] = self.files.read(self.directory / file)
                if zlib.crc32(contents[file][offset : offset + size]) != crc:
                    raise StateError(f"state '{key}' in {file} is damaged (checksum)")

    def load(self, states: Mapping[str, State]) -> None:
        """Load each state from its chain in the manifest that `latest` returned; states without one stay empty."""
        contents: dict[str, bytes] = {}
        for key, state in states.items():
            kill_point("restore.state")
            chain = self._chains.get(key)
            if chain:
                state.load(self._batches(chain, contents))

    def _batches(self, chain: Iterable[Piece], contents: dict[str, bytes]) -> Iterable[pa.RecordBatch]:
        for piece in chain:
            if piece.file not in contents:
                contents[piece.file] = self.files.read(self.directory / piece.file)
            data = io.BytesIO(contents[piece.file][piece.offset : piece.offset + piece.size])
            while data.tell() < piece.size:
                yield from pa.ipc.open_stream(data)


def _pack(data: io.BytesIO, name: str, batches: Iterable[pa.RecordBatch]) -> Piece:
    """Append batches (their schemas may differ: one IPC stream each) and describe where they lie."""
    start = data.tell()
    for batch in batches:
        with pa.ipc.new_stream(data, batch.schema) as writer:
            writer.write_batch(batch)
    size = data.tell() - start
    return Piece(name, start, size, zlib.crc32(data.getbuffer()[start : start + size]))
