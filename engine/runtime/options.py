"""What a driver can be told, with tuned defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DriverOptions:
    """Tuned defaults. Times in seconds."""

    latency: float = 0.05
    """Rows may wait this long to be coalesced with later ones."""
    small: int = 1024
    """Below this many rows an epoch waits for more, up to `latency`."""
    batch: int = 8192
    """Rows per poll in live traffic: an L2-sized batch."""
    backlog: int = 65536
    """Rows per poll while catching up: fewer, larger epochs. Larger still costs cache misses in probes."""
    idle_wait: float = 0.01
    checkpoint_interval: float = 5.0
    restarts: int = 3
    """Failures at one place before a job stays FAILED."""
    backoff: float = 1.0
    """First wait before a retry; doubles each time."""
    dead_letters: int = 10_000
    """Dead letters kept for SHOW DEAD LETTERS; older ones go."""
