"""The hash index against a dict of lists: inserts, probes in pieces, deaths and unlinks in any order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.engine.state.index import RowIndex
from forebay.engine.state.rows import CHUNK, ChunkTable

FOREVER = 2**62
HASHES = [0, 1, 2, 2**56, 2**63, 2**64 - 1, 2**56 + 16, 2**56 + 32]
"""Few, so that chains grow; 0 and the extremes; several of one part, with equal home slots."""


class NaiveIndex:
    """Row ids by hash, newest first."""

    def __init__(self) -> None:
        self.chains: dict[int, list[int]] = {}

    def insert(self, hashes: list[int], first: int) -> None:
        for n, x in enumerate(hashes):
            self.chains.setdefault(x, []).insert(0, first + n)

    def unlink(self, hashes: list[int], rows: list[int]) -> None:
        for x, row in zip(hashes, rows):
            self.chains[x].remove(row)

    def pairs(self, hashes: list[int], died: dict[int, int], most: int, least: int) -> list[tuple[int, int]]:
        visible = lambda r: r < most and (r not in died or died[r] >= least)
        return [(i, r) for i, x in enumerate(hashes) for r in self.chains.get(x, []) if visible(r)]


def found(
    index: RowIndex, hashes: list[int], died: ChunkTable, most: int, least: int, limit: int
) -> list[tuple[int, int]]:
    pieces = list(index.pairs(np.array(hashes, np.uint64), died.addresses, most, least, limit))
    assert all(0 < p.size <= limit for p, _ in pieces)
    return [pair for p, r in pieces for pair in zip(p.tolist(), r.tolist())]


hash_lists = st.lists(st.sampled_from(HASHES), max_size=10)


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(st.tuples(hash_lists, st.integers(0, 2**32), st.booleans()), max_size=8),
    start=st.sampled_from([1, CHUNK - 5, 3 * CHUNK - 2]),
    limit=st.sampled_from([1, 3, 1000]),
)
def test_follows_the_naive_index(steps: list[tuple[list[int], int, bool]], start: int, limit: int) -> None:
    index, naive = RowIndex(), NaiveIndex()
    died, deaths = ChunkTable(8, fill=0), dict[int, int]()
    linked: dict[int, int] = {}
    row = start
    for epoch, (hashes, pick, unlinks) in enumerate(steps, 1):
        died.reserve((row + len(hashes)) // CHUNK)
        index.insert(np.array(hashes, np.uint64), np.arange(row, row + len(hashes)))
        naive.insert(hashes, row)
        linked |= {row + n: x for n, x in enumerate(hashes)}
        row += len(hashes)
        chosen = [r for n, r in enumerate(linked) if pick >> (n % 32) & 1]
        if unlinks:
            gone = [linked.pop(r) for r in chosen]
            index.unlink(np.array(gone, np.uint64), np.array(chosen, np.int64))
            naive.unlink(gone, chosen)
            index.shrink()
        else:
            for r in chosen:
                deaths.setdefault(r, epoch)
                died.require(r // CHUNK)[: CHUNK * 8].view(np.int64)[r % CHUNK] = deaths[r]
        for most, least in ((FOREVER, FOREVER), (row - 2, epoch), (FOREVER, 1)):
            want = naive.pairs(HASHES, deaths, most, least)
            assert found(index, HASHES, died, most, least, limit) == want
            newest = index.newest(np.array(HASHES, np.uint64), died.addresses, most, least).tolist()
            assert newest == [next((r for i, r in want if i == n), 0) for n in range(len(HASHES))]


@pytest.mark.parametrize("spread", [1, 2**40, 0x9E3779B97F4A7C15])
def test_grows_part_by_part(spread: int) -> None:
    """Many distinct hashes, all in one part or over all of them, in batches; then half of them leave."""
    n = 20_000
    hashes = np.arange(n, dtype=np.uint64) * np.uint64(spread)
    index, rows = RowIndex(), np.arange(1, n + 1)
    died = np.zeros(16, np.int64)
    for at in range(0, n, 3000):
        index.insert(hashes[at : at + 3000], rows[at : at + 3000])
    assert index.newest(hashes, died, FOREVER, FOREVER).tolist() == rows.tolist()
    index.unlink(hashes[::2].copy(), rows[::2].copy())
    left = np.where(np.arange(n) % 2 == 0, 0, rows)
    assert index.newest(hashes, died, FOREVER, FOREVER).tolist() == left.tolist()
    index.insert(hashes[::2].copy(), np.arange(n + 1, n + 1 + n // 2))
    assert (index.newest(hashes, died, FOREVER, FOREVER) > 0).all()
    assert index.nbytes() < 3_000_000 + 16 * n * 4


@pytest.mark.parametrize("spread", [1, 2**40, 0x9E3779B97F4A7C15])
def test_shrinks_when_most_are_gone(spread: int) -> None:
    n = 100_000
    hashes = np.arange(n, dtype=np.uint64) * np.uint64(spread)
    index, rows = RowIndex(), np.arange(1, n + 1)
    index.insert(hashes, rows)
    full = index.nbytes()
    index.unlink(hashes[n // 20 :].copy(), rows[n // 20 :].copy())
    index.shrink()
    assert index.nbytes() < full / 3
    died = np.zeros(16, np.int64)
    left = np.where(rows <= n // 20, rows, 0)
    assert index.newest(hashes, died, FOREVER, FOREVER).tolist() == left.tolist()
    index.insert(hashes[n // 20 :].copy(), np.arange(n + 1, 2 * n + 1 - n // 20))
    assert (index.newest(hashes, died, FOREVER, FOREVER) > 0).all()
