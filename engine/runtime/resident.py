"""The memory that the process really has, by the system's account, and what of it can be given back without losing anything.

*Anonymous* memory is what the process has written: state, rows, and what malloc keeps of memory that was freed. *File* memory is
mapped libraries; most of it was read once, to start (LLVM alone 75 MB, to load kernels), and is a copy of what is on disk.
Where the system does not tell (it is no Linux), all is 0 and nothing is given back.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LIBC = ctypes.CDLL(None)
_STATUS = Path("/proc/self/status")
_TOLD = _STATUS.exists()
_DONTNEED = 4
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_HEX = set("0123456789abcdef")
_PART = re.compile(rb"^Rss(Anon|File|Shmem):\s+(\d+) kB", re.MULTILINE)
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ +(/.*\.so[.0-9]*)$")


class Resident(NamedTuple):
    """Bytes of memory that this process has."""

    anonymous: int
    file: int

    @property
    def total(self) -> int:
        return self.anonymous + self.file


def resident() -> Resident:
    """What the process has now, to within some hundred pages. Takes 30 µs."""
    if not _TOLD:
        return Resident(0, 0)
    parts = {name: int(size) << 10 for name, size in _PART.findall(_STATUS.read_bytes())}
    return Resident(parts[b"Anon"], parts[b"File"] + parts[b"Shmem"])


def trim() -> None:
    """Give memory that was freed back to the system, where malloc can: its arenas keep much of it otherwise."""
    release = getattr(_LIBC, "malloc_trim", None)
    if release is not None:
        release(0)


def return_blocks_above(size: int) -> None:
    """Let malloc map larger blocks by themselves, so that they go back to the system when they are freed.

    Left alone it takes blocks of up to 32 MB from its heaps once one was freed: they are used again without page faults, but
    of a heap that others are in little goes back. For the whole process.
    """
    option = getattr(_LIBC, "mallopt", None)
    if option is not None:
        option(_MMAP_THRESHOLD, size)
        option(_TRIM_THRESHOLD, 2 * size)


class Libraries:
    """The libraries that are mapped when this is made."""

    def __init__(self) -> None:
        self._there = set(_read_only(Path("/proc/self/maps")))

    def forget_pages(self) -> None:
        """Let their pages go; those that are used come back from the page cache, in 10 ms for all. Takes 50 ms.

        Only of mappings that cannot be written, of which no page was ever changed (the file has the same bytes), and that are
        not just being made.
        """
        for start, end in self._there & set(_read_only(Path("/proc/self/smaps"))):
            _LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)


def _read_only(listing: Path) -> Iterator[tuple[int, int]]:
    """(start, end) of the parts of libraries that cannot be written, and have no changed page if the listing tells."""
    place: tuple[int, int] | None = None
    for line in listing.read_text().splitlines() if listing.exists() else ():
        found = _MAPPING.match(line)
        if found or line[0] in _HEX:
            if place is not None:
                yield place
            place = (
                None if found is None or "w" in found[3] or "s" in found[3] else (int(found[1], 16), int(found[2], 16))
            )
        elif line.startswith("Anonymous:") and line.split()[1] != "0":
            place = None
    if place is not None:
        yield place
