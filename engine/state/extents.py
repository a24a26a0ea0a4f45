"""Blocks read from where they lie in RocksDB's table files, many at a time and past the page cache (`engine.state.aio`).

RocksDB reads one block per system call: from the disk 13 to 17 µs of CPU and a thread that waits. A table file is never changed,
and holds one value after the other (`kernels.extents`), so where each begins is known when it is written: its segment's footer
has it. What is read there counts only if it has the key and the checksum of the block that was asked for. All else, whether the
file is damaged or laid out by another version, is left to RocksDB, which can tell.
"""

from __future__ import annotations

import copy
import ctypes
import logging
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from forebay.engine import limits
from forebay.engine.state.aio import Aio, buffer
from forebay.kernels import extents as kernels
from forebay.kernels.cold import SLACK
from forebay.kernels.extents import AFTER, BEFORE, PAGE

log = logging.getLogger("forebay")
Blocks = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
_SAMPLE = 4
"""Blocks of a segment of which is asked whether the page cache has them: then all are taken from there, in the call that asks."""
_TOLD = 16
"""Times that the answer is believed."""
_SPARE = 10 << 20
"""Bytes of a buffer that is kept for the next reads, at most."""
_AT_ONCE = 128 << 10
"""Bytes that the system brings into the page cache in one call, wherever it runs: some read no more."""
_LIBC = ctypes.CDLL(None)
_NONE = np.zeros(0, np.int64)


class Extents:
    """Where the entries of a segment's blocks begin: in which of its files, and at which byte."""

    def __init__(self, starts: npt.NDArray[np.uint32], firsts: Sequence[int], ends: Sequence[int]) -> None:
        """`firsts` and `ends`: the first block of each file, and the byte where the entry of its last one ends."""
        self.starts = starts
        self.firsts = list(firsts)
        self.ends = list(ends)
        self.address = starts.ctypes.data

    @classmethod
    def of(cls, sizes: Blocks, firsts: Sequence[int]) -> Extents:
        """Those of values of these sizes."""
        if not sizes.shape[0]:
            return cls(np.zeros(0, np.uint32), [], [])
        varint = 1 + sum((sizes >= 1 << bits).astype(np.int64) for bits in (7, 14, 21, 28))
        after = np.cumsum(sizes + varint + BEFORE + AFTER)
        base = np.r_[0, after][list(firsts)]
        starts = np.r_[0, after[:-1]] - base[np.searchsorted(firsts, np.arange(sizes.shape[0]), "right") - 1]
        ends = after[np.r_[list(firsts[1:]), sizes.shape[0]].astype(np.int64) - 1] - base
        return cls(starts.astype(np.uint32), firsts, ends.tolist())

    def nbytes(self) -> int:
        return self.starts.nbytes


class Addresses:
    """Where the blocks of one segment lie: in memory, 0 for those that do not, and in files, if that is known."""

    def __init__(self, segment: int, blocks: int, extents: Extents | None) -> None:
        self.segment = segment
        self.extents = extents
        self.at = np.zeros(blocks, np.int64)
        self.address = self.at.ctypes.data
        self.asked = 0
        """Blocks that readers wanted; of these `read` had to come from the files."""
        self.read = 0

    def nbytes(self) -> int:
        return self.at.nbytes + (self.extents.nbytes() if self.extents is not None else 0)


class Wanted:
    """Blocks of some segments, told apart by *slots*: block blocks[i] of places[slots[i]]. (slots, blocks) ascend."""

    def __init__(self, places: Sequence[Addresses], slots: Blocks, blocks: Blocks) -> None:
        self.places = places
        self.slots = slots
        self.blocks = blocks
        self._tables = np.array([p.address for p in places], np.int64)

    @classmethod
    def of(cls, parts: Sequence[tuple[Addresses, Blocks]]) -> Wanted:
        """Ascending blocks of each of some segments."""
        slots = np.repeat(np.arange(len(parts)), [blocks.shape[0] for _, blocks in parts])
        return cls([p for p, _ in parts], slots, np.concatenate([_NONE, *(blocks for _, blocks in parts)]))

    def __len__(self) -> int:
        return len(self.blocks)

    def part(self, which: slice | npt.NDArray[np.bool_]) -> Wanted:
        """Some of them."""
        made = copy.copy(self)
        made.slots, made.blocks = self.slots[which], self.blocks[which]
        return made

    def parts(self) -> list[tuple[Addresses, Blocks]]:
        """The blocks of each segment, those without any included."""
        ends = np.cumsum(self.counts())[:-1]
        return list(zip(self.places, np.split(self.blocks, ends)))

    def counts(self) -> Blocks:
        """How many there are of each segment."""
        return np.bincount(self.slots, minlength=len(self.places))

    def at(self) -> Blocks:
        """Their addresses in memory; 0 for those that are not there."""
        found = np.empty_like(self.blocks)
        kernels.get_addresses(self.slots, self.blocks, self._tables, found)
        return found

    def put(self, at: Blocks) -> None:
        """They are at these addresses from now on."""
        kernels.put_addresses(self.slots, self.blocks, self._tables, at)

    def absent(self) -> Wanted:
        """Those that are not in memory."""
        return self.part(self.at() == 0)


def locate(wanted: Wanted) -> tuple[Blocks, Blocks, Blocks]:
    """(number of the file, where the entry begins, where it ends) of each block. The files of the segments that have any are
    numbered one after the other."""
    tables = np.zeros((len(wanted.places), 4), np.int64)
    firsts: list[int] = []
    ends: list[int] = []
    for slot in np.flatnonzero(wanted.counts()).tolist():
        extents = wanted.places[slot].extents
        assert extents is not None
        tables[slot] = extents.address, extents.starts.shape[0], len(firsts), len(extents.firsts)
        firsts += extents.firsts
        ends += extents.ends
    found = tuple(np.empty_like(wanted.blocks) for _ in range(3))
    kernels.locate(wanted.slots, wanted.blocks, tables, np.array(firsts, np.int64), np.array(ends, np.int64), *found)
    files, begins, stops = found
    return files, begins, stops


@dataclass(frozen=True, slots=True)
class _File:
    """An open table file."""

    direct: int
    """A descriptor that reads past the page cache."""
    cached: int
    """One that reads from it."""
    mapping: mmap.mmap
    """Is never read: it tells which pages the page cache has."""

    def has(self, at: int) -> bool:
        """Whether the page cache has the page with byte `at`."""
        told = ctypes.c_ubyte(0)
        page = np.frombuffer(self.mapping, np.uint8).ctypes.data + at // PAGE * PAGE
        return not _LIBC.mincore(ctypes.c_void_p(page), ctypes.c_size_t(1), ctypes.byref(told)) and bool(told.value & 1)

    def close(self) -> None:
        os.close(self.direct)
        os.close(self.cached)
        self.mapping.close()


@dataclass(frozen=True, slots=True)
class Asked:
    """Blocks that are on their way."""

    number: int
    data: Bytes
    at: Blocks
    sizes: Blocks
    read: Blocks
    places: Blocks
    count: int
    """Reads."""
    keys: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]


class BlockReader:
    """Reads blocks of segments whose extents are known."""

    def __init__(self, tables: Callable[[int], Sequence[Path]]) -> None:
        """`tables`: the files of a segment, in the order of its blocks."""
        self._tables = tables
        self._aio: Aio | None = None
        self._off = not hasattr(os, "O_DIRECT")
        self._files: dict[int, list[_File]] = {}
        self._told: dict[int, tuple[bool, int]] = {}
        """By segment whether the page cache has it, and how many more times that is believed."""
        self._spare: Bytes | None = None
        """A buffer that no read is under way to."""

    def ask(self, wanted: Wanted) -> Asked | None:
        """Begin to read blocks; None if that is not possible, or there are none."""
        if not len(wanted):
            return None
        descriptors: list[int] = []
        for slot in np.flatnonzero(wanted.counts()).tolist():
            places = wanted.places[slot]
            opened = self._opened(places)
            if opened is None or places.extents is None:
                return None
            cached = self._is_cached(places, opened, wanted, slot)
            descriptors += [f.cached if cached else f.direct for f, _ in zip(opened, places.extents.firsts)]
        files, starts, ends = locate(wanted)
        n = len(wanted)
        read_files, offsets, sizes, to, read, at = (np.empty(n, np.int64) for _ in range(6))
        count = kernels.plan(np.array(descriptors)[files], starts, ends, read_files, offsets, sizes, to, read, at)
        data = self._buffer(int(to[count - 1] + sizes[count - 1]))
        assert self._aio is not None
        number = self._aio.begin(read_files[:count], offsets[:count], sizes[:count], to[:count], data)
        segments = np.array([p.segment for p in wanted.places], np.uint64)[wanted.slots]
        keys = (segments.byteswap(), wanted.blocks.astype(np.uint32).byteswap().astype(np.uint64))
        return Asked(number, data, at, ends - starts, read, to, count, keys)

    def _is_cached(self, places: Addresses, opened: Sequence[_File], wanted: Wanted, slot: int) -> bool:
        """Whether the page cache seems to have a segment's entries; the system is asked now and then."""
        told, left = self._told.get(places.segment, (False, 0))
        if not left:
            blocks = wanted.blocks[wanted.slots == slot]
            some = Wanted.of([(places, blocks[:: -(-blocks.shape[0] // _SAMPLE)])])
            files, starts, _ = locate(some)
            told = all(opened[f].has(s) for f, s in zip(files.tolist(), starts.tolist()))
        self._told[places.segment] = told, (left or _TOLD) - 1
        return told

    def _buffer(self, size: int) -> Bytes:
        """So many bytes: of the last buffer, whose pages are there, if they are enough."""
        spare, self._spare = self._spare, None
        return spare if spare is not None and spare.nbytes >= size else buffer(size)

    def take(self, asked: Asked) -> tuple[Bytes, Blocks]:
        """What came, when it has: the bytes of the values, with slack after them, and the address of each; 0 for one that is not
        what was asked for."""
        assert self._aio is not None
        came = self._aio.finish(asked.number)
        ends = np.minimum(asked.at + asked.sizes, (asked.places[: came.shape[0]] + came)[asked.read])
        data, values = np.empty(int(asked.sizes.sum()) + SLACK, np.uint8), np.empty_like(asked.at)
        kernels.settle(asked.data.ctypes.data, asked.at, ends, *asked.keys, data.ctypes.data, values)
        if asked.data.nbytes <= _SPARE and (self._spare is None or self._spare.nbytes < asked.data.nbytes):
            self._spare = asked.data
        return data, values

    def drop(self, asked: Asked) -> None:
        """Nobody will take it; it may have been taken."""
        if self._aio is not None:
            self._aio.drop(asked.number)

    def nbytes(self) -> int:
        return self._spare.nbytes if self._spare is not None else 0

    def forget(self, segment: int) -> None:
        """The segment will not be read again."""
        self._told.pop(segment, None)
        for file in self._files.pop(segment, ()):
            file.close()

    def close(self) -> None:
        """Close all files."""
        if self._aio is not None:
            self._aio.close()
            self._aio = None
        for segment in list(self._files):
            self.forget(segment)

    def _warm(self, files: Sequence[_File]) -> None:
        """Let the page cache have new files while it has room for all: RocksDB's writer leaves none of what it wrote there."""
        total = sum(len(f.mapping) for files in self._files.values() for f in files)
        if total < limits.cache():
            threading.Thread(target=_read_ahead, args=([os.dup(f.cached) for f in files],), daemon=True).start()

    def _opened(self, places: Addresses) -> list[_File] | None:
        """Its files; None if they cannot be read here, or are others than there were."""
        if self._off or places.extents is None:
            return None
        found = self._files.get(places.segment)
        if found is None:
            try:
                self._aio = self._aio or Aio()
                found = [_open(path) for path in self._tables(places.segment)]
            except OSError as error:
                log.info("cold state is read by RocksDB alone: %s", error)
                self._off = True
                return None
            self._files[places.segment] = found
            self._warm(found)
        if len(found) < len(places.extents.firsts):
            places.extents = None
            return None
        return found


def _read_ahead(descriptors: Sequence[int]) -> None:
    """Bring whole files into the page cache, and close them."""
    for descriptor in descriptors:
        try:
            for begin in range(0, os.fstat(descriptor).st_size, _AT_ONCE):
                os.posix_fadvise(descriptor, begin, _AT_ONCE, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _open(path: Path) -> _File:
    descriptors = []
    try:
        for flags in (os.O_DIRECT, 0):
            descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags))
        return _File(descriptors[0], descriptors[1], mmap.mmap(descriptors[0], 0, prot=mmap.PROT_READ))
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
