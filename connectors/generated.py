"""Sources whose n-th row is a pure function of n: the reader that numbers, paces and ends them.

One split, '0'; its position is the number of the next row. Any split of the numbers into batches gives the same rows, so a
restart at a position repeats and skips nothing. Randomness is counter-based (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", 2011): a draw is a hash of (seed, stream name, row number) and needs no state.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Fetched, Position, Rate, Reader, Source
from forebay.engine.files import Clock

Numbers = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]
Generate = Callable[[int, int], pa.RecordBatch]
"""generate(first, count): the rows first .. first + count - 1."""

SPLIT = "0"
MAX_BATCH = 65536

_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)


def stream_key(seed: int, name: str) -> np.uint64:
    """The key of an independent random stream."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def draw(key: np.uint64, numbers: Numbers) -> Bits:
    """64 random bits per number: the splitmix64 generator (Steele, Lea, Flood 2014), entered at any place."""
    x = numbers.view(np.uint64) * _GOLDEN
    x += key
    shifted = x >> np.uint64(30)
    for shift, factor in ((27, _M1), (31, _M2)):
        x ^= shifted
        x *= factor
        np.right_shift(x, np.uint64(shift), out=shifted)
    x ^= shifted
    return x


def high(bits: Bits) -> Bits:
    """The upper 32 bits: independent of the lower ones."""
    return bits >> np.uint64(32)


def low(bits: Bits) -> Bits:
    return bits & _LOW


def below(bits32: Bits, bound: int | Numbers) -> Numbers:
    """Uniform whole numbers in [0, bound) from 32 random bits each; bound is at most 2**31 (Lemire 2019, without rejection)."""
    wide = bits32 * (np.uint64(bound) if isinstance(bound, int) else bound.view(np.uint64))
    wide >>= np.uint64(32)
    return wide.view(np.int64)


class GeneratedReader(Reader):
    """Generates as fast as it is polled, or at `rate` rows per second of the clock, up to row `end`."""

    def __init__(self, generate: Generate, first: int, end: int | None, rate: float | None, clock: Clock) -> None:
        self._generate = generate
        self._next = first
        self._end = end
        self._limit: int | None = None
        self._rate = rate
        self._clock = clock
        self._origin = first
        self._started = clock.monotonic()

    def splits(self) -> list[str]:
        return [SPLIT]

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        count = self._ready(min(max_rows, MAX_BATCH))
        if count == 0 and self._rate is not None and not self.finished():
            time.sleep(min(timeout, 1 / self._rate))
            count = self._ready(min(max_rows, MAX_BATCH))
        if count <= 0:
            return None
        rows = self._generate(self._next, count)
        self._next += count
        return Fetched(Batch(rows), None, records=count)

    def _ready(self, count: int) -> int:
        stop = self._stop()
        if stop is not None:
            count = min(count, stop - self._next)
        if self._rate is not None:
            due = self._origin + int((self._clock.monotonic() - self._started) * self._rate)
            count = min(count, due - self._next)
        return max(count, 0)

    def _stop(self) -> int | None:
        stops = [s for s in (self._end, self._limit) if s is not None]
        return min(stops) if stops else None

    def positions(self) -> dict[str, Position]:
        return {SPLIT: self._next}

    def finished(self) -> bool:
        stop = self._stop()
        return stop is not None and self._next >= stop

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self._limit = None if positions is None else int(positions.get(SPLIT, self._next))

    def lag(self) -> int | None:
        stop = self._stop()
        return None if stop is None else max(stop - self._next, 0)


class GeneratedSource(Source):
    """An append-only source over `generate`; bounded if `end` is given."""

    changelog = Changelog.APPEND

    def __init__(
        self, schema: pa.Schema, generate: Generate, end: int | None, rate: float | None, clock: Clock | None = None
    ) -> None:
        self.schema = schema
        self.bounded = end is not None
        self._generate = generate
        self._end = end
        self._rate = rate
        self._clock = clock or Clock()

    def peek(self, count: int) -> pa.RecordBatch:
        return self._generate(0, count if self._end is None else min(count, self._end))

    def rate(self, now: int) -> Rate | None:
        return None if self._rate is None else Rate(self._rate, f"{self._rate:,.0f} rows per second by its options")

    def reader(self, positions: Mapping[str, Position] | None) -> GeneratedReader:
        first = int(positions.get(SPLIT, 0)) if positions else 0
        return GeneratedReader(self._generate, first, self._end, self._rate, self._clock)
