"""The cold rows of one arrangement: segments newest last, found by hash, addressed by *handles*, merged as they grow many.

A handle tells where a row lies (segment and row), holds until segments are next merged, and is not below `COLD`, so that
hot row ids and handles can go through the same hands. The row's id never changes: deaths are bits by id, so a merge that
copies rows over many steps loses none of the deaths that happen meanwhile. Segments are never changed; merging is size-tiered
(as in Bigtable and Cassandra): `FAN` segments of about one size become one, in steps over slices of the hash space, when lookups
in them have cost as much as that will (the rule of ski rental), or half of their rows are dead.

Hashes say nothing of the order of keys, but keys that ascend with time (as numbers given in a row do) are in few segments: each
knows the least and the greatest, and those that cannot have a key are not asked.

Rows with a time expire: a segment goes when all its rows have (its newest is older than `expired`), and is written anew without
them when half have, so that what nobody sees is never more than what somebody does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.engine.errors import StateError
from forebay.engine.files import declare, kill_point
from forebay.engine.state.arrays import Mask
from forebay.engine.state.coldstore import ColdStore, Loading
from forebay.engine.state.extents import Asked, Bytes, Wanted
from forebay.engine.state.rows import ChunkTable, Ids
from forebay.engine.state.segment import Builder, Hashes, Segment, gather_column, rows_batch
from forebay.engine.state.times import NEVER, Micros, time_of
from forebay.kernels import cold as kernels
from forebay.kernels.rows import SHIFT

COLD = 1 << 62
_SEGMENT = 40
_ROW = (1 << _SEGMENT) - 1
_PREPARED = 4
"""Arrays of hashes for which it is remembered what was found: both sides of this piece of an epoch and of the next."""
FAN = 12
"""Segments of one size that are merged into one."""
DEAR = 8
"""Lookups in a segment that cost as much as a row costs to merge, about: 30 ns and 250."""
MOST = 64
"""Segments that a probe looks through at most, but for a short while."""
_SLICE, _STEP = 1 << 17, 4 << 20
"""Rows, and about how many bytes of them, are merged in one step."""
_ALIKE = 3
"""Segments are of one size if the largest has at most this many times the rows of the smallest."""
_BITMAP = 1 << (SHIFT - 3)
NONE = np.zeros(0, np.int64)

declare("cold.merge.before", "cold.merge.after")


class Deaths:
    """Bits by row id; chunks without a set bit take no memory."""

    def __init__(self) -> None:
        self._bits = ChunkTable(0, fill=0, extra=_BITMAP)

    def set(self, ids: Ids, on: bool = True) -> None:
        """Set or clear bits."""
        for chunk in np.unique(ids >> SHIFT).tolist():
            self._bits.require(chunk)
        kernels.set_bits(self._bits.addresses, ids, on)

    def test(self, ids: Ids) -> Mask:
        """Which bits are set."""
        out = np.empty(ids.shape[0], np.uint8)
        kernels.test_bits(self._bits.addresses, ids, out)
        return out.view(bool)

    def keep(self, chunks: Ids) -> None:
        """Forget the bits of all ids but those of these chunks: nobody will ask for them."""
        for chunk in self._bits.chunks.keys() - set(chunks.tolist()):
            self._bits.drop(chunk)

    def nbytes(self) -> int:
        return self._bits.nbytes()

    def save(self) -> pa.RecordBatch:
        """All bitmaps."""
        chunks = sorted(self._bits.chunks)
        bits = [self._bits.chunks[c][:_BITMAP].tobytes() for c in chunks]
        return pa.RecordBatch.from_arrays(
            [pa.array(chunks, pa.int64()), pa.array(bits, pa.binary(_BITMAP))], names=["chunk", "bits"]
        )

    def load(self, saved: pa.RecordBatch) -> None:
        """What `save` gave."""
        for chunk, bits in zip(saved.column(0).to_pylist(), saved.column(1).to_pylist()):
            self._bits.require(chunk)[:_BITMAP] = np.frombuffer(bits, np.uint8)


class ColdRows:
    """Segments of rows of one schema."""

    def __init__(self, schema: pa.Schema, store: ColdStore, time: int | None = None, key: int | None = None) -> None:
        """`time`: the column with the event time, if rows expire. `key`: the one that rows are found by, if it is one."""
        self.schema = schema
        self.store = store
        self.time = time
        self.key = key
        self.expired = -NEVER
        """Rows older than this are gone for everybody; in µs."""
        self.dropped = 0
        """Live rows that have expired and are physically gone, since the last `take_dropped`."""
        self.segments: dict[int, Segment] = {}
        self.dead = Deaths()
        self._prepared: deque[_Prepared] = deque()
        self._merge: _Merge | None = None
        self.merges = 0
        self.sealed_bytes = 0
        """Bytes of segments that came from memory."""
        self.merged_bytes = 0
        """Bytes written again by merges since the process began."""

    def __bool__(self) -> bool:
        return bool(self.segments)

    def rows(self) -> int:
        """Rows in segments, dead ones included."""
        return sum(s.rows for s in self.segments.values())

    def live_rows(self) -> int:
        """Rows in segments that have not died."""
        return sum(s.rows - s.dead for s in self.segments.values())

    def write_amplification(self) -> float | None:
        """Bytes written, merges included, per byte that left memory; None before the first. Since the process began."""
        return 1 + self.merged_bytes / self.sealed_bytes if self.sealed_bytes else None

    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(s.nbytes() for s in self.segments.values()) + self.dead.nbytes()

    # -- writing ------------------------------------------------------------------------------------------------

    def builder(self, rows: int) -> Builder:
        """Begin a segment of at most so many rows; `add` it when it is finished."""
        return Builder(self.schema, self.store, rows, self.time, self.key)

    def add(self, segment: Segment) -> None:
        """A segment that was built is part of these rows from now on."""
        self.sealed_bytes += segment.nbytes_on_disk
        self.segments[segment.number] = segment

    def maintain(self, held: Ids = NONE) -> bool:
        """One step of merging, after a look for segments that have expired; False when there is nothing to do.

        Of the dead rows only `held` ids are kept.
        """
        dropped = self._drop_expired()
        if self._merge is None:
            inputs = self._to_merge()
            if not inputs:
                return dropped
            self._merge = _Merge(self, inputs)
        merged = self._merge.step(held)
        if merged is not None:
            merged.dead = sum(s.dead for s in self._merge.inputs) - self._merge.left_out
            self.dropped += self._merge.expired
            for segment in self._merge.inputs:
                self._forget(segment)
            self.merged_bytes += merged.nbytes_on_disk
            if merged.rows:
                self.segments[merged.number] = merged
            else:
                self.store.forget(merged.places)
            self._merge = None
            self.merges += 1
        return True

    @property
    def may_step(self) -> bool:
        """Whether a merge is under way whose next step is not its last."""
        return self._merge is not None and not self._merge.ends

    def ahead(self, held: Ids) -> None:
        """Such a step, which does not disturb readers."""
        assert self._merge is not None
        self._merge.step(held)

    def _forget(self, segment: Segment) -> None:
        del self.segments[segment.number]
        self.store.forget(segment.places)

    def _drop_expired(self) -> bool:
        """Give up the segments of which no row is visible to anybody, but those that are being merged."""
        merging = {s.number for s in self._merge.inputs} if self._merge is not None else set()
        gone = [
            s
            for s in self.segments.values()
            if s.times is not None and s.times[2] < self.expired and s.number not in merging
        ]
        for segment in gone:
            self._forget(segment)
            self.dropped += segment.rows - segment.dead
        return bool(gone)

    def take_dropped(self) -> int:
        """How many live rows have been dropped since the last call."""
        count, self.dropped = self.dropped, 0
        return count

    def kill(self, handles: Ids, ids: Ids) -> Ids:
        """These rows, with these ids, die; the ids, ascending."""
        self.dead.set(ids)
        self.count_deaths(handles)
        return np.sort(ids)

    def count_deaths(self, handles: Ids, sign: int = 1) -> None:
        """Note that so many rows of their segments have died, or come to life again."""
        numbers, counts = np.unique((handles - COLD) >> _SEGMENT, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist()):
            self.segments[number].dead += sign * count

    def _to_merge(self) -> list[Segment]:
        whole = [s for s in self.segments.values() if not s.damaged]
        for segment in whole:
            if segment.times is not None and segment.times[1] < self.expired:
                return [segment]
        by_size = sorted(whole, key=lambda s: s.rows)
        for at in range(len(by_size) - FAN + 1):
            group = by_size[at : at + FAN]
            if group[-1].rows <= _ALIKE * group[0].rows and _worth_merging(group):
                return group
        return by_size[:FAN] if len(by_size) > MOST else []

    def open(self, numbers: Sequence[int], dead: Sequence[int] = ()) -> None:
        """The segments that a checkpoint names, from the store, and how many of the rows of each were dead."""
        self.segments = {n: Segment(n, self.store.footer(n)) for n in numbers}
        for segment, count in zip(self.segments.values(), dead):
            segment.dead = count
        self.store.live.update(numbers)
        self.sealed_bytes = sum(s.nbytes_on_disk for s in self.segments.values())

    def abandon_merge(self) -> None:
        """Give up the merge under way: its inputs stay."""
        if self._merge is not None:
            self._merge.abandon()
            self._merge = None

    def close(self) -> None:
        """Nobody will read these rows again."""
        self.abandon_merge()
        for segment in self.segments.values():
            self.store.forget(segment.places)
        self.segments = {}

    # -- reading ------------------------------------------------------------------------------------------------

    def find(
        self, hashes: Hashes, since: int = -NEVER, wanted: Mask | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int32], Ids, Ids]]:
        """(index of the hash, handle, row id) of every row under each hash, in pieces.

        Segments without a row as young as `since` are not looked at. `wanted`: the hashes to look for, in the newest segment
        first; the caller clears it for those that need no look at older ones.
        """
        segments = self._since(since)
        if wanted is None:
            yield from self._find(segments, hashes)
            return
        for segment in reversed(segments):
            places = np.flatnonzero(wanted)
            for which, handles, ids in self._find([segment], hashes[places]):
                yield places[which].astype(np.int32), handles, ids

    def prepare(self, hashes: Hashes, since: int = -NEVER, keys: Ids = NONE) -> None:
        """Begin to bring into memory what `find` will read for this very array, as much as stays there: it waits for the rest.

        `keys`: what the hashes are of, as `arrays.ordinals`, if that is known: segments of other keys are not looked at.
        """
        if self.is_prepared(hashes):
            return
        while len(self._prepared) >= _PREPARED:
            self._unprepare(self._prepared.popleft())
        segments = self._since(since)
        found = self._candidates(segments, hashes, keys)
        _, slots, blocks = found
        pieces = self._pieces(segments, slots, blocks)
        loading = self.store.begin(pieces[0][2]) if pieces else None
        self._prepared.append(_Prepared(hashes, [s.number for s in segments], found, loading))

    def unprepare(self) -> None:
        """The epoch is over: nobody will look for what was prepared in it."""
        while self._prepared:
            self._unprepare(self._prepared.popleft())

    def _unprepare(self, known: _Prepared) -> None:
        if known.loading is not None:
            self.store.drop(known.loading.asked)

    @property
    def at_once(self) -> int:
        """Rows, about, of which no two are in one block, that a reader can have in memory together."""
        size: int = max(s.block_bytes for s in self.segments.values())
        return self.store.loaded * 7 // 8 // size

    def is_prepared(self, hashes: Hashes | None = None) -> bool:
        """Whether this very array (or any) was prepared: to look for all of it costs nothing then."""
        return any(hashes is None or p.hashes is hashes for p in self._prepared)

    def _since(self, since: int) -> list[Segment]:
        """Segments with a row as young as that."""
        return [s for s in self.segments.values() if s.times is None or s.times[2] >= since]

    def _candidates(self, segments: Sequence[Segment], hashes: Hashes, keys: Ids = NONE) -> tuple[Ids, Ids, Ids]:
        """(index of the hash, place of the segment, block) of all that the filters let through; the last two ascend."""
        for known in self._prepared:
            if known.hashes is hashes and known.segments == [s.number for s in segments]:
                loading, known.loading = known.loading, None
                if loading is not None:
                    self.store.finish(loading)
                return known.found
        if not segments:
            return NONE, NONE, NONE
        tables, asked, passed = np.array([s.table for s in segments]), *np.empty((2, len(segments)), np.int64)
        room, count = -1, hashes.shape[0]
        while count > room:  # keys of many rows are in many places
            room = count
            places = [np.empty(room, np.int64) for _ in range(3)]
            count = kernels.candidates(hashes, keys, tables, asked, passed, *places)
        for segment, looked, through in zip(segments, asked.tolist(), passed.tolist()):
            segment.asked += looked
            segment.passed += through
        which, slots, blocks = (column[:count] for column in places)
        order = np.argsort((slots << _SEGMENT) + blocks)
        return which[order], slots[order], blocks[order]

    def _find(self, segments: Sequence[Segment], hashes: Hashes) -> Iterator[tuple[npt.NDArray[np.int32], Ids, Ids]]:
        """As `find`, in all of some segments: their blocks are asked for together."""
        which, slots, block = self._candidates(segments, hashes)
        bases = np.array([self._base(s) for s in segments])
        each = np.array([s.block_rows for s in segments])
        for piece, addresses in self._loaded(segments, slots, block):
            begin, count = np.empty_like(addresses), np.empty_like(addresses)
            total = kernels.search(hashes, which[piece], addresses, begin, count)
            if not total:
                continue
            within = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
            rows = np.repeat(begin, count) + within
            base = bases[slots[piece]] + block[piece] * each[slots[piece]]
            ids = gather_column(np.repeat(addresses, count), rows, 0, pa.int64()).to_numpy()
            yield np.repeat(which[piece], count).astype(np.int32), np.repeat(base, count) + rows, ids

    def _loaded(self, segments: Sequence[Segment], slots: Ids, blocks: Ids) -> Iterator[tuple[slice, Ids]]:
        """Bring block blocks[i] of segment segments[slots[i]] into memory, for all i.

        (slots, blocks) ascend. They come in pieces whose blocks are in memory together: which of them, and their addresses.
        """
        pieces = self._pieces(segments, slots, blocks)
        if not pieces:
            return
        loading = self.store.begin(pieces[0][2])
        try:
            for number, (piece, wanted, _) in enumerate(pieces):
                now = loading
                if number + 1 < len(pieces):
                    loading = self.store.begin(pieces[number + 1][2])
                self.store.finish(now)
                yield piece, wanted.at()
        finally:
            self.store.drop(loading.asked)  # if the reader did not want all

    def _pieces(self, segments: Sequence[Segment], slots: Ids, blocks: Ids) -> Sequence[tuple[slice, Wanted, Wanted]]:
        """Pieces of ascending (slots, blocks) that fit in memory together: which they are, what they want, and that without what
        is wanted twice."""
        if not blocks.shape[0]:
            return []
        fresh = np.r_[True, (blocks[1:] != blocks[:-1]) | (slots[1:] != slots[:-1])]
        size = np.array([s.block_bytes for s in segments])
        taken = np.cumsum(np.where(fresh, size[slots], 0))
        most = self.store.loaded
        cuts = np.searchsorted(taken, np.arange(most, int(taken[-1]), most), "right")
        whole = Wanted([s.places for s in segments], slots, blocks)
        pieces = []
        for begin, end in pairwise(np.unique(np.r_[0, cuts, blocks.shape[0]]).tolist()):
            wanted = whole.part(slice(begin, end))
            pieces.append((slice(begin, end), wanted, wanted.part(np.r_[True, fresh[begin + 1 : end]])))
        return pieces

    def scan(self, segments: Sequence[Segment] | None = None) -> Iterator[Ids]:
        """The handles of all rows (or of those of some segments), in pieces."""
        for segment in list(self.segments.values()) if segments is None else segments:
            step = max(1, self.store.loaded // segment.block_bytes)
            for at in range(0, segment.fences.shape[0], step):
                blocks = np.arange(at, min(at + step, segment.fences.shape[0]))
                yield segment.rows_of(blocks) + self._base(segment)

    def ids(self, handles: Ids) -> Ids:
        """The row ids of handles."""
        parts = [gather_column(blocks, rows, 0, pa.int64()).to_numpy() for _, blocks, rows in self._located(handles)]
        return _in_order(np.concatenate([np.zeros(0, np.int64), *parts]), handles)

    def gather(self, handles: Ids, wanted: Sequence[int] | None = None) -> pa.RecordBatch:
        """The rows of handles (some columns of them)."""
        columns = list(range(len(self.schema)) if wanted is None else wanted)
        parts = [rows_batch(blocks, rows, self.schema, columns) for _, blocks, rows in self._located(handles)]
        parts = parts or [rows_batch(handles, handles, self.schema, columns)]
        whole = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        if _ascend(handles):
            return whole
        return whole.take(pa.array(_inverse(handles)))

    def times_of(self, handles: Ids) -> Micros:
        """The times of rows, for a schema that has one."""
        parts = [self.times(blocks, rows) for _, blocks, rows in self._located(handles)]
        return _in_order(np.concatenate([np.zeros(0, np.int64), *parts]), handles)

    def times(self, blocks: Ids, rows: Ids) -> Micros:
        """The times of rows of blocks that are in memory."""
        assert self.time is not None
        return time_of(gather_column(blocks, rows, 1 + self.time, self.schema.field(self.time).type))

    def _located(self, handles: Ids) -> Iterator[tuple[Ids, Ids, Ids]]:
        """(handles, addresses of their blocks, rows in them), ascending, in pieces whose blocks are in memory together."""
        if not _ascend(handles):
            handles = np.sort(handles, kind="stable")
        numbers = (handles - COLD) >> _SEGMENT
        starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]]) if handles.shape[0] else NONE
        segments = [self._segment(number) for number in numbers[starts].tolist()]
        slots = np.repeat(np.arange(len(segments)), np.diff(np.r_[starts, handles.shape[0]]))
        rows = handles & _ROW
        each = np.array([s.block_rows for s in segments], np.int64)[slots]
        blocks = rows // each
        rows -= blocks * each
        for piece, addresses in self._loaded(segments, slots, blocks):
            yield handles[piece], addresses, rows[piece]

    def _segment(self, number: int) -> Segment:
        found = self.segments.get(number)
        if found is None:
            raise StateError("a handle of cold state outlived its segment")
        return found

    @staticmethod
    def _base(segment: Segment) -> int:
        return COLD + (segment.number << _SEGMENT)


@dataclass(slots=True)
class _Prepared:
    """What the filters of some segments let through of some hashes."""

    hashes: Hashes
    segments: Sequence[int]
    found: tuple[Ids, Ids, Ids]
    loading: Loading | None
    """Its blocks, until somebody has waited for them."""


def _ascend(handles: Ids) -> bool:
    return bool((handles[1:] >= handles[:-1]).all())


def _inverse(handles: Ids) -> Ids:
    """Places in sorted order of unsorted handles."""
    order = np.argsort(handles)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(order.shape[0])
    return inverse


def _in_order(values: npt.NDArray[Any], handles: Ids) -> npt.NDArray[Any]:
    return values if _ascend(handles) else values[_inverse(handles)]


def _worth_merging(group: Sequence[Segment]) -> bool:
    """Whether looking through the segments has cost as much as merging them will, or half of what they hold is dead."""
    rows = sum(s.rows for s in group)
    return sum(s.asked for s in group) >= DEAR * rows or 2 * sum(s.dead for s in group) >= rows


class _Merge:
    """A merge under way: slice after slice of the hash space goes from the inputs into one new segment."""

    def __init__(self, owner: ColdRows, inputs: list[Segment]) -> None:
        self.inputs = inputs
        self.left_out = 0
        """Rows that were dead and are not copied."""
        self.expired = 0
        """Rows that had expired and are not copied."""
        self._owner = owner
        total = sum(s.rows for s in inputs)
        self._slices = max(1, -(-total // _SLICE), sum(s.nbytes_on_disk for s in inputs) // _STEP)
        self._done = 0
        self._asked: dict[int, tuple[Wanted, Asked | None]] = {}
        """Blocks of each input, by slice, that are on their way."""
        self._builder = owner.builder(total)

    @property
    def ends(self) -> bool:
        """Whether only its last step is left."""
        return self._done + 1 >= self._slices

    def step(self, held: Ids) -> Segment | None:
        """Merge one slice; the new segment after the last. Dead rows go, but for those that a reader holds.

        The next one is on its way from the disk meanwhile.
        """
        for number in range(self._done, min(self._done + 2, self._slices)):
            if number not in self._asked:
                self._asked[number] = self._ask(number)
        wanted, asked = self._asked[self._done]
        pieces, parts = self._owner.store.read(wanted, asked), []
        for segment, (_, blocks) in zip(self.inputs, wanted.parts()):
            try:
                parts.append(self._slice(segment, blocks, *next(pieces), held))
            except StateError:
                segment.damaged = True  # it is read where it can be, and merged no more
                raise
        del self._asked[self._done]
        self._done += 1
        addresses, places, hashes, ids = (np.concatenate(columns) for columns in list(zip(*parts))[1:])
        if hashes.shape[0]:
            order = np.argsort(hashes, kind="stable")
            schema = self._owner.schema
            rows = rows_batch(addresses[order], places[order], schema, range(len(schema)))
            self._builder.add(rows, hashes[order], ids[order])
        if self._done < self._slices:
            return None
        kill_point("cold.merge.before")
        merged = self._builder.finish()
        kill_point("cold.merge.after")
        return merged

    def _bounds(self, number: int) -> tuple[int, int | None]:
        """The hashes of a slice: from the first to below the second."""
        end = ((number + 1) << 64) // self._slices if number + 1 < self._slices else None
        return (number << 64) // self._slices, end

    def _ask(self, number: int) -> tuple[Wanted, Asked | None]:
        wanted = Wanted.of([(s.places, s.blocks_between(*self._bounds(number))) for s in self.inputs])
        return wanted, self._owner.store.ask(wanted)

    def _slice(
        self, segment: Segment, blocks: Ids, data: Bytes, at: Ids, held: Ids
    ) -> tuple[Bytes, Ids, Ids, Hashes, Ids]:
        """The rows of the slice in blocks of a segment, at addresses `at` in `data`, that are alive or held.

        They are (what keeps their blocks in memory, addresses of the blocks, rows in them, hashes, ids).
        """
        owner, (low, high) = self._owner, self._bounds(self._done)
        first = int(blocks[0]) if blocks.shape[0] else 0
        rows = segment.rows_of(blocks)
        addresses, places = at[rows // segment.block_rows - first], rows % segment.block_rows
        hashes = np.empty(rows.shape[0], np.uint64)
        kernels.gather_hashes(addresses, places, hashes)
        ids = gather_column(addresses, places, 0, pa.int64()).to_numpy()
        keep = hashes >= np.uint64(low)
        if high is not None:
            keep &= hashes < np.uint64(high)
        dead = owner.dead.test(ids)
        if held.shape[0] and dead.any():
            dead[dead] = ~np.isin(ids[dead], held)
        self.left_out += int((keep & dead).sum())
        keep &= ~dead
        if owner.time is not None:
            young = owner.times(addresses, places) >= owner.expired
            self.expired += int((keep & ~young).sum())
            keep &= young
        kept = np.flatnonzero(keep)
        return data, addresses[kept], places[kept], hashes[kept], ids[kept]

    def abandon(self) -> None:
        """Stop for good."""
        for _, asked in self._asked.values():
            self._owner.store.drop(asked)
        self._asked = {}
        self._builder.abandon()
