"""Building an arrangement straight from rows in any order, in memory that does not grow with them.

Two passes (as in a Grace hash join): first the rows are *spilled*, each batch ordered by ranges of the hash of their key, into
files called *runs*; then range after range is read from all runs, sorted, and written into cold segments, of which there are
few, each a quarter of the hash space. No row ever is in the hot tier or in an index.

Where rows replace each other, of several rows of one key the one with the greatest version stays, among equals the last that
came.

Progress is a JSON value: spilled runs and finished segments. Segments are durable; runs are not synced, and trusted only for
as long as the machine is up.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.batch import take
from forebay.engine.consolidate import group_rows
from forebay.engine.files import declare, kill_point
from forebay.engine.state.arrangement import Arrangement
from forebay.engine.state.arrays import hash_rows, is_null, rank_of
from forebay.engine.state.segment import Hashes, Segment

RANGE_ROWS = 1 << 16
"""Rows of a range: sorting them, and taking them in order, stays in the cache."""
MOST_RANGES = 1 << 10
MOST_ROWS = 1 << 19
"""Rows sorted at a time where a range has many more than its share: a key that many rows have."""
RUN_BATCHES = 16
PARTS = 4
"""Segments made at most: fewer than would be merged."""
GROUPS = 1 << 6
"""Groups of ranges, more if one would not fit; of every run one is in memory at a time. Runs are read and not mapped: the kernel
would map many times what is looked at."""
MOST_BYTES = 128 << 20
_HASH = pa.field("__hash", pa.uint64(), False)
Places = npt.NDArray[np.int64]

declare("bootstrap.run.before", "bootstrap.run.after", "bootstrap.segment.before", "bootstrap.segment.after")


class BulkBuild:
    """The rows of one arrangement on their way into segments: `add`*, then `step` until it returns False."""

    def __init__(
        self,
        arrangement: Arrangement,
        directory: Path,
        expected: int,
        *,
        replaces: bool = False,
        version: int | None = None,
        progress: Mapping[str, Any] | None = None,
        most: int = MOST_BYTES,
    ) -> None:
        """`expected`: rows that will come, roughly; `most`: bytes of spilled rows to have in memory at a time, roughly.
        With `replaces` only the newest row of a key stays: by column `version` if there is one, then by order.
        `progress`: what `save` gave, where a build goes on; its runs and segments must be there."""
        self.arrangement = arrangement
        self.rows = 0
        """Rows spilled."""
        self.written = 0
        """Rows of finished ranges that were read; some may have been left out for newer ones."""
        self._directory = directory
        self._replaces = replaces
        self._version = version
        self._schema = pa.schema([_HASH, *arrangement.schema])
        self._ranges = int(np.clip(expected // RANGE_ROWS, 1, MOST_RANGES))
        self._runs: list[int] = []
        """Batches per finished run."""
        self._counts = np.zeros(self._ranges, np.int64)
        """Spilled rows per range."""
        self._expected = expected
        self._most = most
        self._groups = 0
        """Groups of ranges; known from the first rows on."""
        self._loaded = 0
        """Bytes of the group in memory."""
        self._open: Any = None
        self._in_run: Places = np.zeros(0, np.int64)
        self._batches = 0
        self._segments: list[tuple[int, int, int]] = []
        """Per finished part: its segment (0: it has no rows), rows, and rows with NULL in their key."""
        self._work: Generator[None] | None = None
        self._done = False
        self._cold = arrangement.cold_rows()
        if progress is not None:
            self._ranges, self._groups = progress["ranges"], progress["groups"]
            self._runs = list(progress["runs"])
            self._counts = np.array(progress["counts"], np.int64)
            self._segments = [tuple(s) for s in progress["segments"]]
            self.rows = int(self._counts.sum())
            self._cold.store.live.update(s[0] for s in self._segments if s[0])
        directory.mkdir(parents=True, exist_ok=True)

    # -- first pass ---------------------------------------------------------------------------------------------

    def add(self, rows: pa.RecordBatch) -> None:
        """Spill rows of the arrangement's schema."""
        if not rows.num_rows:
            return
        hashes = hash_rows(rows, self.arrangement.key)
        ranges = self._range_of(hashes)
        order = np.argsort(ranges, kind="stable")
        whole = take(pa.RecordBatch.from_arrays([pa.array(hashes), *rows.columns], schema=self._schema), order)
        counts = np.bincount(ranges, minlength=self._ranges)
        if self._open is None:
            self._groups = self._groups or self._groups_of(whole)
            kill_point("bootstrap.run.before")
            self._open = pa.ipc.new_file(str(self._path(len(self._runs))), self._schema)
            self._in_run, self._batches = np.zeros(self._ranges, np.int64), 0
        starts = (np.cumsum(counts) - counts)[:: self._stride].tolist()
        for start, stop in zip(starts, [*starts[1:], rows.num_rows]):
            self._open.write_batch(whole.slice(start, stop - start))
        self._in_run += counts
        self._batches += 1

    @property
    def _stride(self) -> int:
        """Ranges in a group."""
        return -(-self._ranges // max(self._groups, 1))

    def _groups_of(self, rows: pa.RecordBatch) -> int:
        """So many groups that one of them fits, if all rows are as wide as these."""
        total = self._expected * rows.nbytes // rows.num_rows
        return int(np.clip(-(-total // self._most), min(GROUPS, self._ranges), self._ranges))

    def nbytes(self) -> int:
        """Bytes of memory, about: the group of spilled rows that is being written, and of one range a sorted copy."""
        return self._loaded + 2 * self._loaded // max(self._stride, 1) if self._loaded else 0

    @property
    def full(self) -> bool:
        """The open run is long enough to be closed: `cut`, and save what has been read."""
        return self._open is not None and self._batches >= RUN_BATCHES

    def cut(self) -> None:
        """Close the open run."""
        if self._open is not None:
            self._open.close()
            self._open = None
            self._runs.append(self._batches)
            self._counts += self._in_run
            self.rows = int(self._counts.sum())
            kill_point("bootstrap.run.after")

    def save(self) -> dict[str, Any]:
        """Runs and segments so far, as a JSON value; rows since the last `cut` are not in it."""
        return {
            "ranges": self._ranges,
            "groups": self._groups,
            "runs": list(self._runs),
            "counts": self._counts.tolist(),
            "parts": min(PARTS, self._ranges),
            "segments": [list(s) for s in self._segments],
        }

    def _range_of(self, hashes: Hashes) -> npt.NDArray[np.uint16]:
        """The range of each hash, ascending with it."""
        return ((hashes >> np.uint64(48)) * np.uint64(self._ranges) >> np.uint64(16)).astype(np.uint16)

    def _path(self, run: int) -> Path:
        return self._directory / f"{run}.run"

    # -- second pass --------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Write one range; False when all are written and the arrangement has its rows."""
        if self._work is None:
            self._work = self._write()
        return next(self._work, False) is None

    @property
    def parts(self) -> int:
        """Parts that are finished."""
        return len(self._segments)

    def _write(self) -> Generator[None]:
        parts = min(PARTS, self._ranges)
        self.written = sum(s[1] for s in self._segments)
        for part in range(len(self._segments), parts):
            first, end = self._ranges * part // parts, self._ranges * (part + 1) // parts
            yield from self._write_part(first, end)
        found = [Segment(s[0], self._cold.store.footer(s[0])) for s in self._segments if s[0]]
        self._done, self._loaded = True, 0
        self.arrangement.adopt(found, sum(s[1] for s in self._segments), sum(s[2] for s in self._segments))

    def _write_part(self, first: int, end: int) -> Generator[None]:
        """One segment of the ranges `first` to `end`."""
        at = 1 + sum(s[1] for s in self._segments)
        runs = _Runs(self)
        builder = self._cold.builder(int(self._counts[first:end].sum()))
        rows = nulls = 0
        try:
            for number in range(first, end):
                slices = runs.slices(number)
                for hashes, piece in self._sorted(slices):
                    builder.add(piece, hashes, np.arange(at + rows, at + rows + piece.num_rows))
                    rows += piece.num_rows
                    nulls += self._null_keys(piece)
                self.written += sum(s.num_rows for s in slices)
                yield
        except BaseException:  # it is closed, or there is no room: what was written goes, so that there is
            builder.abandon()
            raise
        if rows:
            kill_point("bootstrap.segment.before")
            segment = builder.finish().number
            kill_point("bootstrap.segment.after")
        else:
            builder.abandon()
            segment = 0
        self._segments.append((segment, rows, nulls))

    def _null_keys(self, rows: pa.RecordBatch) -> int:
        null = np.zeros(rows.num_rows, bool)
        for column in self.arrangement.key:
            if rows.column(column).null_count:
                null |= is_null(rows.column(column))
        return int(null.sum())

    def _sorted(self, slices: list[pa.RecordBatch]) -> Iterator[tuple[Hashes, pa.RecordBatch]]:
        """The rows of a range in the order of their hashes, in pieces."""
        total = sum(s.num_rows for s in slices)
        if total <= MOST_ROWS or self._replaces:
            yield from self._sorted_piece(slices)
            return
        hashes = np.sort(np.concatenate([_hashes(s) for s in slices]))
        least, middle = hashes[0], hashes[total // 2]
        if least == hashes[-1]:
            yield from ((_hashes(s), _without_hash(s)) for s in slices)
            return
        bound = middle if middle > least else hashes[np.searchsorted(hashes, least, "right")]
        for below in (True, False):
            yield from self._sorted([p for s in slices if (p := _side_of(s, bound, below)).num_rows])

    def _sorted_piece(self, slices: list[pa.RecordBatch]) -> Iterator[tuple[Hashes, pa.RecordBatch]]:
        if not slices:
            return
        whole = pa.concat_batches(slices)
        hashes = _hashes(whole)
        order = np.argsort(hashes)
        if self._replaces:
            order = order[self._newest(whole, hashes[order], order)]
        yield hashes[order], take(_without_hash(whole), order)

    def _newest(self, rows: pa.RecordBatch, hashes: Hashes, order: Places) -> npt.NDArray[np.bool_]:
        """Which of the rows, at `order`, stay: of several rows of one key the newest. They have come in the order of `rows`."""
        keep = np.ones(hashes.shape[0], bool)
        same = np.flatnonzero(hashes[1:] == hashes[:-1])
        if not same.shape[0]:
            return keep
        alike = np.zeros(hashes.shape[0], bool)
        alike[same] = alike[same + 1] = True
        several = np.flatnonzero(alike)
        places = order[several]
        group, _ = group_rows(take(rows.select([1 + k for k in self.arrangement.key]), places))
        age = places
        if self._version is not None:
            versions = take(rows.select([1 + self._version]), places).column(0)
            age = rank_of(versions) * rows.num_rows + places
        best = np.zeros(several.shape[0], np.int64) - 1
        np.maximum.at(best, group, age)
        keep[several] = age == best[group]
        return keep

    # -- end ----------------------------------------------------------------------------------------------------

    def forget_runs(self) -> None:
        """Remove the spilled rows: they are in segments, or not wanted."""
        for path in self._directory.glob("*.run"):
            path.unlink()

    def close(self) -> None:
        """Stop; another build may go on from what was saved."""
        if self._work is not None:
            self._work.close()
        if self._open is not None:
            with suppress(OSError):  # the disk may be full; what the run has is read again
                self._open.close()
            self._open = None
            self._path(len(self._runs)).unlink(missing_ok=True)

    def abandon(self) -> None:
        """Stop for good."""
        self.close()
        self.forget_runs()
        if not self._done:
            self._cold.store.live.difference_update(s[0] for s in self._segments)


class _Runs:
    """The spilled runs, a group of ranges in memory at a time."""

    def __init__(self, build: BulkBuild) -> None:
        self._build = build
        self._files = [pa.ipc.open_file(pa.OSFile(str(build._path(n)))) for n in range(len(build._runs))]
        self._group = -1
        self._batches: list[pa.RecordBatch] = []
        self._bounds: list[Places] = []

    def slices(self, number: int) -> list[pa.RecordBatch]:
        """The rows of one range, in the order in which they came."""
        group, at = divmod(number, self._build._stride)
        if group != self._group:
            self._load(group)
        pairs = zip(self._batches, self._bounds)
        return [batch.slice(b[at], b[at + 1] - b[at]) for batch, b in pairs if b[at + 1] > b[at]]

    def _load(self, group: int) -> None:
        self._group, self._batches, self._bounds = group, [], []
        stride = self._build._stride
        first, groups = group * stride, -(-self._build._ranges // stride)
        for file, count in zip(self._files, self._build._runs):
            for number in range(count):
                batch = file.get_batch(number * groups + group)
                if batch.num_rows:
                    ranges = self._build._range_of(_hashes(batch))
                    self._batches.append(batch)
                    self._bounds.append(np.searchsorted(ranges, np.arange(first, first + stride + 1)))
        self._build._loaded = sum(b.nbytes for b in self._batches)


def _hashes(rows: pa.RecordBatch) -> Hashes:
    hashes: Hashes = rows.column(0).to_numpy()
    return hashes


def _without_hash(rows: pa.RecordBatch) -> pa.RecordBatch:
    return rows.select(list(range(1, rows.num_columns)))


def _side_of(rows: pa.RecordBatch, bound: np.uint64, below: bool) -> pa.RecordBatch:
    hashes = _hashes(rows)
    return take(rows, np.flatnonzero(hashes < bound if below else hashes >= bound))
