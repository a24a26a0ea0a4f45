"""The cold store: immutable blocks of many segments in one RocksDB, written as sorted files and read in batches.

Key: segment (8 bytes) and block (4 bytes), big-endian, so that a segment is one range of keys. A segment is written once, as
table files that are ingested in one step, with its *footer* (all that its reader keeps in memory) under the last block
number; it is never changed, and goes as a whole. There is no log and no compaction of live blocks: a checkpoint names the
segments that it needs, and `collect` drops the others.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from forebay.engine.errors import StateError
from forebay.engine.files import declare, kill_point
from forebay.engine.state import rescue
from forebay.engine.state.extents import Addresses, Asked, BlockReader, Blocks, Bytes, Extents, Wanted
from forebay.kernels.cold import SLACK

log = logging.getLogger("forebay")
FOOTER = 0xFFFFFFFF
_KEY = np.dtype([("segment", ">u8"), ("block", ">u4")])
_FILE_BYTES = 256 << 20
CACHE = 32 << 20
"""Bytes of blocks that are kept where memory allows it."""
LOADED = 8 << 20
"""Least bytes of memory for the blocks which one step of a reader needs together."""
_FEW = 64
"""Blocks for which it is not worth doing something else while they come."""
_NOTHING = np.zeros(0, np.uint8)
_AHEAD = 512 << 10
"""Bytes that RocksDB reads at a time where blocks are read in order."""

_REMEDY = "RESTORE SAVEPOINT goes back to one, or drop the jobs that failed and create them again; other jobs go on"
_DAMAGE = ("Corruption", "No such file")
"""What RocksDB says when its files are damaged; its errors have no class. A lock or a full disk is no damage."""

declare("cold.ingest.before", "cold.ingest.after", "cold.collect.before")


def _keys(segment: int, blocks: Blocks) -> list[bytes]:
    packed = np.empty(blocks.shape[0], _KEY)
    packed["segment"], packed["block"] = segment, blocks
    data = packed.tobytes()
    return [data[i : i + 12] for i in range(0, len(data), 12)]


def _key(segment: int, block: int) -> bytes:
    return segment.to_bytes(8, "big") + block.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Loading:
    """Blocks on their way into memory."""

    wanted: Wanted
    direct: Wanted
    """Of these what was asked for past RocksDB, if anything was."""
    asked: Asked | None


class ColdStore:
    """Blocks by (segment, block). Opened at its first use; one per warehouse."""

    def __init__(self, directory: Path | None) -> None:
        """`directory` None: a temporary one, gone at `close`."""
        self._temporary = directory is None
        self._directory = directory
        self._db: Any = None
        self._next = 0
        self.live: set[int] = set()
        """Segments that somebody has, or is writing."""
        self._cached: deque[tuple[Bytes, Wanted]] = deque()
        self._cached_bytes = 0
        self.cache = CACHE
        """Bytes of blocks that are kept; not below what one step of a reader needs together (`LOADED`)."""
        self.written = 0
        """Bytes of blocks written since the store was opened, merges included."""
        self.read_blocks = 0
        self._reader = BlockReader(self._files_of)
        self.meanwhile: Callable[[], None] = _nothing
        """Does something of use while many blocks come from the disk; it changes nothing that the reader of blocks sees."""
        self.ill = False
        """Damage has made RocksDB refuse all writes: `reopen`. From a full disk it recovers by itself, within 5 s of room."""
        self._unwieldy: set[int] = set()
        """Damaged segments that cannot be dropped."""

    @property
    def loaded(self) -> int:
        """Most bytes of memory, about, for the blocks which one step of a reader needs together: those of two stay, for half of
        it is given back when they have come."""
        return max(LOADED, self.cache * 5 // 8)

    @property
    def where(self) -> str:
        """Where its files are or will be, for the user."""
        return str(self._directory or tempfile.gettempdir())

    @property
    def directory(self) -> Path:
        """Where the files are."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="forebay-"))
        return self._directory

    # -- writing ------------------------------------------------------------------------------------------------

    def new_segment(self) -> int:
        """A number that no segment had."""
        self._open()
        self._next += 1
        self.live.add(self._next)
        return self._next

    def writer(self, segment: int) -> SegmentWriter:
        """Begin to write a segment."""
        return SegmentWriter(self, segment)

    def collect(self, needed: Collection[int]) -> None:
        """Drop every segment but these and those that are live; what cannot be dropped now goes another time. Any thread may
        call it."""
        if self._db is None:
            return
        there = set(self.segments())  # before a look at `live`: what is written meanwhile is in neither
        for segment in there - set(needed) - self.live - self._unwieldy:
            kill_point("cold.collect.before")
            begin, end = _key(segment, 0), _key(segment + 1, 0)
            try:
                self._db.delete_range(begin, end)
                self._db.compact_range(begin, end)
            except Exception as error:  # noqa: BLE001 - RocksDB's errors have no class; the disk may be full
                log.warning("segment %d, which nobody needs, stays for now: %s", segment, error)
                if _is_damage(error):
                    self.ill = True
                    self._unwieldy.add(segment)
                return

    # -- reading ------------------------------------------------------------------------------------------------

    def footer(self, segment: int) -> bytes:
        """What the writer of the segment finished it with.

        Raises:
            StateError: the segment is not there, or damaged.
        """
        (found,) = self._get([_key(segment, FOOTER)])
        return bytes(found)

    def begin(self, wanted: Wanted) -> Loading:
        """Begin to bring distinct blocks of some segments into memory."""
        for places, count in zip(wanted.places, wanted.counts().tolist()):
            places.asked += count
        absent = wanted.absent()
        for places, count in zip(wanted.places, absent.counts().tolist()):
            places.read += count
        self.read_blocks += len(absent)
        return self._sent(wanted, absent)

    def finish(self, loading: Loading) -> None:
        """Now they are there, and stay until a few more have come."""
        if loading.asked is not None and loading.asked.count > _FEW:
            self.meanwhile()
        self._arrive(loading)
        if absent := loading.wanted.absent():
            self._arrive(self._sent(absent, absent))
            if absent := absent.absent():
                self._keep(absent, *self._got(absent))
        if loading.wanted.absent():  # some had to make room for others, but what came last never has to
            self._keep(loading.wanted, *self._got(loading.wanted))

    def _sent(self, wanted: Wanted, absent: Wanted) -> Loading:
        """Ask for those that are absent, as far as it is known where they lie."""
        known = np.array([p.extents is not None for p in absent.places], bool)
        direct = absent if known.all() else absent.part(known[absent.slots])
        return Loading(wanted, direct, self._reader.ask(direct))

    def _arrive(self, loading: Loading) -> None:
        if loading.asked is None:
            return
        data, at = self._reader.take(loading.asked)
        self._keep(loading.direct, data, at)
        for slot in np.unique(loading.direct.slots[at == 0]).tolist():
            loading.direct.places[slot].extents = None  # they lie elsewhere, or are damaged

    def _got(self, wanted: Wanted) -> tuple[Bytes, Blocks]:
        """The bytes of blocks, and the address of each in them, from RocksDB."""
        return _joined(self._get([key for places, blocks in wanted.parts() for key in _keys(places.segment, blocks)]))

    def _keep(self, wanted: Wanted, data: Bytes, at: Blocks) -> None:
        wanted.put(at)
        self._cached.append((data, wanted))
        self._cached_bytes += data.nbytes
        while self._cached_bytes - self._cached[0][0].nbytes > self.cache:
            self._evict()

    def ask(self, wanted: Wanted) -> Asked | None:
        """Begin to read blocks, in a row of each segment, for `read`; None if there is no way to read ahead."""
        return self._reader.ask(wanted)

    def read(self, wanted: Wanted, asked: Asked | None) -> Iterator[tuple[Bytes, Blocks]]:
        """Blocks in a row of each segment, which nobody keeps but the caller: the bytes, and the address of each block in them.

        `asked`: what `ask` said to them.
        """
        data, at = self._reader.take(asked) if asked is not None else (_NOTHING, np.zeros(0, np.int64))
        begin = 0
        for places, blocks in wanted.parts():
            self.read_blocks += blocks.shape[0]
            came = at[begin : begin + blocks.shape[0]]
            begin += blocks.shape[0]
            if came.shape[0] == blocks.shape[0] and came.all():
                yield data, came
                continue
            if asked is not None:
                places.extents = None  # they lie elsewhere, or are damaged
            yield self._read_in_order(places.segment, int(blocks[0]), blocks.shape[0])

    def drop(self, asked: Asked | None) -> None:
        """Nobody will take what was asked for; it may have been taken."""
        if asked is not None:
            self._reader.drop(asked)

    def _read_in_order(self, segment: int, first: int, count: int) -> tuple[Bytes, Blocks]:
        from rocksdict import ReadOptions

        ahead = ReadOptions()
        ahead.set_readahead_size(_AHEAD)
        found = []
        try:
            iterator = self._open().iter(ahead)
            iterator.seek(_key(segment, first))
            for key in _keys(segment, np.arange(first, first + count)):
                if not iterator.valid() or iterator.key() != key:
                    break
                found.append(iterator.value())
                iterator.next()
            iterator.status()
        except Exception as error:
            raise self._damaged(segment, error) from error
        if len(found) < count:
            raise self._missing(segment)
        return _joined(found)

    def forget(self, places: Addresses) -> None:
        """The segment will not be read again; `collect` may drop it."""
        self.live.discard(places.segment)
        self._reader.forget(places.segment)
        kept = [(data, wanted.part(_of_others(wanted, places))) for data, wanted in self._cached]
        self._cached = deque(entry for entry in kept if entry[1])
        self._cached_bytes = sum(data.nbytes for data, _ in self._cached)

    def segments(self) -> list[int]:
        """Numbers of the segments that have files, ascending."""
        return sorted({_segment(f["start_key"]) for f in self._open().live_files()})

    def missing(self, segments: Collection[int]) -> dict[int, str]:
        """Of these segments those that are not there, or whose footers cannot be read, and why."""
        found = {}
        for segment in sorted(segments):
            try:
                self.footer(segment)
            except StateError as error:
                found[segment] = f"{error.message} ({error.detail})"
        return found

    def check(self, segments: Collection[int]) -> None:
        """Raises:
        StateError: one of these segments is not there, or damaged.
        """
        for reason in self.missing(segments).values():
            raise StateError(reason)

    def nbytes(self) -> int:
        """Bytes of memory: cached blocks, and what RocksDB and the reader of blocks keep."""
        if self._db is None:
            return 0
        tables = int(self._db.property_int_value("rocksdb.estimate-table-readers-mem") or 0)
        return self._cached_bytes + self._reader.nbytes() + tables

    def disk_bytes(self) -> int:
        """Bytes of the store's files."""
        return sum(f.stat().st_size for f in self.directory.rglob("*") if f.is_file()) if self._db is not None else 0

    def close(self) -> None:
        """Close the files."""
        self._cached.clear()
        self._cached_bytes = 0
        self._close_files()
        if self._temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def reopen(self) -> None:
        """Close the files and open them again. Nobody may use the store meanwhile."""
        self._close_files()
        self._open()
        self.ill = False

    def _close_files(self) -> None:
        self._reader.close()
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except Exception as error:  # noqa: BLE001 - told of what failed earlier; all that matters was synced then
                log.warning("the cold store was closed after an error: %s", error)

    # -- files --------------------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The highest number that a segment has had."""
        return self._next

    def not_below(self, number: int) -> None:
        """New segments get higher numbers than this: an old copy of the state may have segments up to it."""
        self._next = max(self._next, number)

    def tables(self, segments: Collection[int]) -> list[tuple[int, Path]]:
        """(segment, table file) of all files that hold these segments. A file has blocks of one segment and is never changed."""
        if not segments:
            return []
        live = [(_segment(f["start_key"]), f["name"].lstrip("/")) for f in self._open().live_files()]
        return sorted((segment, self.directory / name) for segment, name in live if segment in segments)

    def _files_of(self, segment: int) -> list[Path]:
        """The files of a segment in the order of its blocks."""
        live = [(bytes(f["start_key"]), f["name"].lstrip("/")) for f in self._open().live_files()]
        return [self.directory / name for key, name in sorted(live) if _segment(key) == segment]

    def ingest(self, paths: Sequence[Path]) -> None:
        """Take in table files that were written for it, or that `tables` gave elsewhere; they are moved."""
        if paths:
            _ingest(self._open(), paths)

    # -- RocksDB ------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        if self._db is None:
            from rocksdict import AccessType, Rdict

            def make(read_only: bool = False) -> Any:
                how = AccessType.read_only() if read_only else AccessType.read_write()
                return Rdict(str(self.directory), options(), access_type=how)

            self.directory.mkdir(parents=True, exist_ok=True)
            for left in self.directory.glob("*.segment"):  # written, but not ingested when the process died
                left.unlink()
            try:
                self._db = _rescued(self.directory, make) if rescue.wanted(self.directory, make) else make()
            except Exception as error:
                if not _is_damage(error):
                    raise
                log.error("the index of cold state is damaged, and is made again: %s", error)
                self._db = _rescued(self.directory, make)
            self._next = max(self._next, *self.segments(), 0)
        return self._db

    def _get(self, keys: list[bytes]) -> Sequence[bytes]:
        try:
            found = self._open().get(keys)
        except Exception as error:
            raise self._damaged(_segment(keys[0]), error) from error
        if None in found:
            raise self._missing(_segment(keys[found.index(None)]))
        values: Sequence[bytes] = found
        return values

    def _damaged(self, segment: int, error: Exception) -> StateError:
        files = ", ".join(path.name for _, path in self.tables([segment]))
        return StateError(
            "cold state is damaged (checksum)",
            detail=f"segment {segment}, file {files} in {self.directory}: {error}",
            hint=_REMEDY,
        )

    def _missing(self, segment: int) -> StateError:
        return StateError(
            "cold state is missing", detail=f"blocks of segment {segment} in {self.directory}", hint=_REMEDY
        )

    def _evict(self) -> None:
        data, wanted = self._cached.popleft()
        at = wanted.at()
        gone = wanted.part((at >= data.ctypes.data) & (at < data.ctypes.data + data.nbytes))
        gone.put(np.zeros(len(gone), np.int64))
        self._cached_bytes -= data.nbytes


def _nothing() -> None:
    """Waits."""


def _of_others(wanted: Wanted, places: Addresses) -> npt.NDArray[np.bool_]:
    others = np.array([p is not places for p in wanted.places], bool)
    return others[wanted.slots]


def _joined(found: Sequence[bytes]) -> tuple[Bytes, Blocks]:
    """Blocks side by side, with slack after them, and their addresses."""
    data = np.frombuffer(b"".join([*found, bytes(SLACK)]), np.uint8)
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    return data, data.ctypes.data + np.cumsum(lengths) - lengths


def _segment(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


class SegmentWriter:
    """Writes the blocks of one segment in order; nothing is visible until `finish`."""

    def __init__(self, store: ColdStore, segment: int) -> None:
        self._store = store
        self._segment = segment
        self._files: list[Path] = []
        self._open_file: Any = None
        self._in_file = 0
        self._blocks = 0
        self._sizes: list[Blocks] = []
        self._firsts: list[int] = []

    def put(self, data: Bytes, ends: Blocks) -> None:
        """Append blocks: data[ends[i - 1]:ends[i]]."""
        begin = 0
        numbers = np.arange(self._blocks, self._blocks + ends.shape[0])
        for number, key, end in zip(numbers.tolist(), _keys(self._segment, numbers), ends.tolist()):
            self._file(number)[key] = data[begin:end].tobytes()
            self._in_file += end - begin
            begin = end
        self._blocks += ends.shape[0]
        self._sizes.append(np.diff(ends, prepend=0))
        self._store.written += begin

    def extents(self) -> Extents:
        """Where the blocks lie."""
        return Extents.of(np.concatenate([np.zeros(0, np.int64), *self._sizes]), self._firsts)

    def finish(self, footer: bytes) -> None:
        """Make the segment durable and readable, at once."""
        self._file(self._blocks)[_key(self._segment, FOOTER)] = footer
        self._store.written += len(footer)
        self._open_file.finish()
        kill_point("cold.ingest.before")
        self._store.ingest(self._files)
        kill_point("cold.ingest.after")

    def abandon(self) -> None:
        """Forget what was written."""
        self._store.live.discard(self._segment)
        self._open_file = None
        for path in self._files:
            path.unlink(missing_ok=True)

    def _file(self, block: int) -> Any:
        """The file that this block goes to."""
        if self._open_file is not None and self._in_file > _FILE_BYTES:
            self._open_file.finish()
            self._open_file = None
        if self._open_file is None:
            from rocksdict import SstFileWriter

            path = self._store.directory / f"{self._segment}-{len(self._files)}.segment"
            self._open_file = SstFileWriter(options())
            self._open_file.open(str(path))
            self._files.append(path)
            self._firsts.append(block)
            self._in_file = 0
        return self._open_file


def _is_damage(error: Exception) -> bool:
    return any(sign in str(error) for sign in _DAMAGE)


def _ingest(db: Any, paths: Sequence[Path]) -> None:
    from rocksdict import IngestExternalFileOptions

    how = IngestExternalFileOptions()
    how.set_move_files(True)
    db.ingest_external_file([str(p) for p in paths], how)


def _rescued(directory: Path, make: rescue.Make) -> Any:
    return rescue.rescue(directory, make, _ingest)


def options() -> Any:
    """RocksDB as a store of immutable blocks: no log to replay, no compaction but what `collect` asks for."""
    from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options

    made = Options(raw_mode=True)
    made.create_if_missing(True)
    made.set_disable_auto_compactions(True)
    made.set_compression_type(DBCompressionType.none())
    made.set_write_buffer_size(1 << 20)
    made.set_max_open_files(512)
    made.set_advise_random_on_open(False)  # merges read in order; the kernel tells the two apart
    made.set_keep_log_file_num(2)
    table = BlockBasedOptions()
    table.set_block_size(1)  # each of ours is one of RocksDB's: `engine.state.extents` counts on it
    table.set_index_block_restart_interval(16)  # they are many, and their keys alike
    table.set_block_cache(Cache(1 << 20))
    table.set_checksum_type(_checksum())
    made.set_block_based_table_factory(table)
    return made


def _checksum() -> Any:
    from rocksdict import ChecksumType

    return ChecksumType.xxh3()
