"""How many processors there are for the process, and how much memory: for it, by its control groups and the machine, and for
the system's cache of its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_FREE = Path("/proc/meminfo")


def cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory that this process may use: of the machine, or of the least of its control groups."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits()])


def cache() -> int:
    """Bytes that the page cache may take, about: what is free or would be given up, but not beyond the control groups.

    The process's own memory is taken from those; 0 where the system does not tell.
    """
    if not _FREE.exists():
        return 0
    free = re.search(r"MemAvailable:\s+(\d+) kB", _FREE.read_text())
    own = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return max(0, min([int(free[1]) << 10 if free else 0, *(limit - own for limit in _limits())]))


def _limits() -> Iterator[int]:
    """The limits of the control groups above the process, of either version."""
    for line in _OWN.read_text().splitlines() if _OWN.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (_GROUPS / "memory", "memory.limit_in_bytes") if controllers else (_GROUPS, "memory.max")
        group = root / path.lstrip("/")
        for level in (group, *group.parents):
            limit = level / name
            if level.is_relative_to(root) and limit.exists() and (text := limit.read_text().strip()).isdigit():
                yield int(text)
