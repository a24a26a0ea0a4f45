"""A file system that forgets at a crash what was not synced, as a disk may."""

from __future__ import annotations

import random
from pathlib import Path

from forebay.connectors.topiclog.memory import MemoryFiles


class LossyFiles(MemoryFiles):
    """Unsynced bytes survive a crash up to a random length; unsynced names may vanish with their files."""

    def __init__(self, seed: int, root: Path = Path("/memory/w")) -> None:
        """`root`: a directory whose own name is durable."""
        super().__init__()
        self._root = root
        self._random = random.Random(seed)
        self._synced: dict[Path, int] = {}
        self._named: set[Path] = set()

    def copy(self, seed: int) -> LossyFiles:
        """Another disk with the same content."""
        copied = LossyFiles(seed, self._root)
        copied._content = {path: bytearray(content) for path, content in self._content.items()}
        copied._directories = set(self._directories)
        copied._synced, copied._named = dict(self._synced), set(self._named)
        return copied

    def write(self, path: Path, data: bytes | memoryview) -> None:
        super().write(path, data)
        self.sync(path)

    def append(self, path: Path, data: bytes | memoryview, sync: bool) -> int:
        size = super().append(path, data, sync)
        if sync:
            self.sync(path)
        return size

    def sync(self, path: Path) -> None:
        self._synced[path] = self.size(path)

    def sync_dir(self, path: Path) -> None:
        self._named.update(path / name for name in self.list(path))

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self._synced[target] = self._synced.pop(source, 0)
        self.sync_dir(target.parent)

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self._synced[target] = self._synced.get(source, 0)

    def mkdir(self, path: Path, *, private: bool = False) -> None:
        super().mkdir(path, private=private)
        self._named.update((path, *path.parents))

    def truncate(self, path: Path, size: int) -> None:
        super().truncate(path, size)
        self.sync(path)

    def crash(self) -> None:
        """Lose what may be lost."""
        for path, content in list(self._content.items()):
            durable_name = all(p in self._named for p in (path, *path.parents) if self._root in p.parents)
            if not durable_name and self._random.random() < 0.5:
                del self._content[path]
                self._synced.pop(path, None)
                continue
            synced = min(self._synced.get(path, 0), len(content))
            kept = self._random.randint(synced, len(content))
            del content[kept:]
            if kept > synced and self._random.random() < 0.3:
                content[kept - 1] ^= 0xFF  # a torn sector
