"""Files in memory: the log of a warehouse that has no directory, with the very code of the one on disk."""

from __future__ import annotations

import threading
from pathlib import Path

from forebay.engine.files import Files


class MemoryFiles(Files):
    """A file system in a dictionary. Everything is as durable as the process."""

    def __init__(self) -> None:
        self._content: dict[Path, bytearray] = {}
        self._directories: set[Path] = set()
        self._lock = threading.Lock()

    def clear(self, directory: Path) -> None:
        """Forget everything in a directory."""
        with self._lock:
            for path in [p for p in self._content if directory in p.parents]:
                del self._content[path]
            self._directories -= {d for d in self._directories if directory in (d, *d.parents)}

    def write(self, path: Path, data: bytes | memoryview) -> None:
        with self._lock:
            self._content[path] = bytearray(data)

    def append(self, path: Path, data: bytes | memoryview, sync: bool) -> int:
        with self._lock:
            content = self._content.setdefault(path, bytearray())
            content += data
            return len(content)

    def sync(self, path: Path) -> None:
        pass

    def replace(self, source: Path, target: Path) -> None:
        with self._lock:
            self._content[target] = self._content.pop(source)

    def link(self, source: Path, target: Path) -> None:
        with self._lock:
            self._content[target] = self._found(source)

    def read(self, path: Path) -> bytes:
        return self.read_at(path, 0, self.size(path))

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        with self._lock:
            return bytes(self._found(path)[offset : offset + size])

    def size(self, path: Path) -> int:
        with self._lock:
            return len(self._found(path))

    def truncate(self, path: Path, size: int) -> None:
        with self._lock:
            del self._found(path)[size:]

    def remove(self, path: Path) -> None:
        with self._lock:
            self._content.pop(path, None)

    def remove_tree(self, path: Path) -> None:
        self.clear(path)

    def exists(self, path: Path) -> bool:
        with self._lock:
            return path in self._content or path in self._directories

    def list(self, path: Path) -> list[str]:
        with self._lock:
            return sorted({p.name for p in (*self._content, *self._directories) if p.parent == path})

    def mkdir(self, path: Path, *, private: bool = False) -> None:
        with self._lock:
            self._directories.update((path, *path.parents))

    def _found(self, path: Path) -> bytearray:
        if path not in self._content:
            raise FileNotFoundError(path)
        return self._content[path]
