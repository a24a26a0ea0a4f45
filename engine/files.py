"""The small file layer that everything durable writes through, and the clock: the seams that a simulator can own.

A *kill point* is a named place where durability changes hands. In production `kill_point` costs one attribute test; tests
install a hook that raises, or kills the process, at a chosen point. Every fsync, rename and commit passes one.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path

KILL_POINTS: set[str] = set()
"""Every name that `kill_point` may be called with; a test proves that each is reached."""

PIECE = 1 << 20
"""Bytes that are read or written at once of what may be large."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_hook: Callable[[str], None] | None = None


def declare(*names: str) -> None:
    """Make kill points known, at import of the module that has them."""
    KILL_POINTS.update(names)


def set_kill_hook(hook: Callable[[str], None] | None) -> None:
    """Call `hook(name)` at every kill point; None removes it."""
    global _hook
    _hook = hook


def kill_point(name: str) -> None:
    """A place where a crash must be survived."""
    if _hook is not None:
        _hook(name)


def lacks_space(error: BaseException) -> bool:
    """Whether it failed because a disk is full, or a quota used up: somebody can make room, and then it goes on."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return type(error) is Exception and any(os.strerror(code) in str(error) for code in _FULL)  # RocksDB tells no more


class Files:
    """The real file system. The simulator's twin loses what was not synced."""

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Create a file with this content, synced. Its name is durable after `sync_dir` only. Where it fails there is no file."""
        try:
            with open(path, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def append(self, path: Path, data: bytes | memoryview, sync: bool) -> int:
        """Append to a file (made if absent); return its new size. Durable once synced. Where it fails nothing is appended."""
        with open(path, "ab", buffering=0) as f:
            before, left = f.seek(0, os.SEEK_END), memoryview(data)
            try:
                while left:
                    left = left[f.write(left) :]
                if sync:
                    os.fsync(f.fileno())
            except OSError:
                f.truncate(before)  # what is appended later must not follow a torn record
                raise
            return f.tell()

    def sync(self, path: Path) -> None:
        """Make earlier appends durable."""
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over the target atomically, and make the name durable."""
        os.replace(source, target)
        self.sync_dir(target.parent)

    def link(self, source: Path, target: Path) -> None:
        """Give a file that nobody writes any more a second name; durable after `sync_dir` only."""
        os.link(source, target)

    def sync_dir(self, path: Path) -> None:
        self.sync(path)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer at the end of the file."""
        with open(path, "rb", buffering=0) as f:
            f.seek(offset)
            return f.read(size)

    def checksum(self, path: Path, offset: int = 0, size: int | None = None) -> int:
        """CRC-32 of up to `size` bytes (None: all) from `offset`."""
        crc, size = 0, self.size(path) if size is None else size
        for at in range(offset, offset + size, PIECE):
            crc = zlib.crc32(self.read_at(path, at, min(PIECE, offset + size - at)), crc)
        return crc

    def size(self, path: Path) -> int:
        """The size of a file in bytes."""
        return path.stat().st_size

    def truncate(self, path: Path, size: int) -> None:
        """Cut a torn tail."""
        with open(path, "r+b") as f:
            f.truncate(size)
            os.fsync(f.fileno())

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and all in it, if it is there."""
        shutil.rmtree(path, ignore_errors=True)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def list(self, path: Path) -> list[str]:
        """Names in a directory, sorted; empty when there is none."""
        return sorted(os.listdir(path)) if path.is_dir() else []

    def mkdir(self, path: Path, *, private: bool = False) -> None:
        """Make a directory and those above it, where they are missing; their names are durable on return.

        `private`: nobody but the user may look into it.
        """
        if path.is_dir():
            return
        self.mkdir(path.parent)
        path.mkdir(0o700 if private else 0o777, exist_ok=True)
        self.sync_dir(path.parent)


class Clock:
    """The real clock."""

    def now(self) -> int:
        """Wall-clock time in µs since 1970."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds, never going back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)
