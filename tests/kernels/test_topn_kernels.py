"""Treaps and ranks against sorted lists."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.kernels import topn

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # words wrap, also when not compiled
settings.register_profile("kernels", deadline=None)
settings.load_profile("kernels")

TEXTS = [b"", b"a", b"ab", b"b", b"\xc3\x84"]


class Treaps:
    """Groups of nodes ordered by (number, text), with their twin as sorted lists."""

    def __init__(self, nodes: int, groups: int, seed: int, descending: bool) -> None:
        random = Random(seed)
        self.heap = np.frombuffer(b"".join(TEXTS), np.uint8)
        starts = np.cumsum([0, *map(len, TEXTS)]).tolist()
        self.plan = np.array([topn.WORD, *[topn.TEXT_DOWN if descending else topn.TEXT_UP] * 2])
        self.keys: list[tuple[int, bytes]] = [(random.randint(0, 3), random.choice(TEXTS)) for _ in range(nodes)]
        rows = [[99, 99, n, starts[TEXTS.index(t)], len(t)] for n, t in self.keys]
        self.words = np.array(rows, np.int64).reshape(nodes, 5)
        self.roots = np.full(groups, topn.NIL, np.int64)
        self.lists: list[list[int]] = [[] for _ in range(groups)]
        self.rank = {t: (-i if descending else i) for i, t in enumerate(sorted(TEXTS))}

    def order(self, node: int) -> Any:
        number, text = self.keys[node]
        return (number, self.rank[text], node)

    def change(self, group: int, node: int) -> None:
        one = (np.array([group]), np.array([node]), self.plan, self.heap)
        if node in self.lists[group]:
            assert topn.remove_nodes(self.words, self.roots, *one) == 1
            self.lists[group].remove(node)
        else:
            assert topn.remove_nodes(self.words, self.roots, *one) == 0
            topn.insert_nodes(self.words, self.roots, *one)
            self.lists[group] = sorted([*self.lists[group], node], key=self.order)

    def walk(
        self, counts: np.ndarray, kind: int, start: int, end: int, ranked: bool, beyond: bool = False
    ) -> list[Any]:
        out = np.empty((1000, 4), np.int64)
        groups = np.arange(len(self.lists))
        rest = (kind, start, end, ranked, beyond, self.plan, self.heap, out)
        n = topn.walk(self.words, self.roots, groups, counts, 3, *rest)
        return out[:n].tolist()


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 29)), max_size=80), st.booleans())
def test_insertions_and_removals(seed: int, changes: list[tuple[int, int]], descending: bool) -> None:
    treaps = Treaps(30, 3, seed, descending)
    where: dict[int, int] = {}
    for group, node in changes:
        group = where.setdefault(node, group)
        treaps.change(group, node)
        if node not in treaps.lists[group]:
            del where[node]
    walked = treaps.walk(np.zeros((0, 1), np.int64), topn.ROW_NUMBER, 1, 10**6, False)
    assert [(g, n) for g, n, _, _ in walked] == [(g, n) for g, nodes in enumerate(treaps.lists) for n in nodes]
    for greatest in (False, True):
        out = np.empty(3, np.int64)
        topn.extremes(treaps.words, treaps.roots, np.arange(3), greatest, out)
        assert out.tolist() == [nodes[-1 if greatest else 0] if nodes else -1 for nodes in treaps.lists]


@pytest.mark.parametrize("kind", [topn.ROW_NUMBER, topn.RANK, topn.DENSE_RANK])
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(0, 20),
    start=st.integers(1, 5),
    length=st.integers(0, 9),
    ranked=st.booleans(),
)
def test_ranks(kind: int, seed: int, size: int, start: int, length: int, ranked: bool) -> None:
    treaps = Treaps(20, 1, seed, False)
    for node in range(size):
        treaps.change(0, node)
    counts = np.array([[Random(seed + n).randint(1, 3)] for n in range(20)], np.int64)
    end = start + length
    expected: list[list[int]] = []
    passed = dense = rank = 0
    previous: Any = None
    for node in treaps.lists[0]:
        weight = int(counts[node, 0])
        if treaps.keys[node] != previous:
            rank, dense, previous = passed + 1, dense + 1, treaps.keys[node]
        if kind == topn.ROW_NUMBER:
            places = [p for p in range(passed + 1, passed + weight + 1) if start <= p <= end]
            if ranked:
                expected += [[0, node, p, 1] for p in places]
            elif places:
                expected.append([0, node, places[0], len(places)])
        elif start <= (rank if kind == topn.RANK else dense) <= end:
            expected.append([0, node, rank if kind == topn.RANK else dense, weight])
        passed += weight
    assert treaps.walk(counts, kind, start, end, ranked) == expected


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 60))
def test_offer_keeps_the_best(seed: int, limit: int, size: int) -> None:
    treaps = Treaps(size, 3, seed, False)
    random = Random(seed)
    groups = np.array([random.randrange(3) for _ in range(size)])
    offered, words = treaps.words.copy(), np.zeros_like(treaps.words)
    sizes, accepted, evicted = np.zeros(3, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    out = np.empty(size, np.int64)
    first = topn.promising(words, treaps.roots, sizes, limit, groups, offered, 3, treaps.plan, treaps.heap, out)
    assert first == size
    topn.offer(
        words, treaps.roots, sizes, limit, groups, offered, np.arange(size), accepted, evicted,
        treaps.plan, treaps.heap,
    )  # fmt: skip
    alive = [i for i in range(size) if accepted[i] >= 0 and accepted[i] not in evicted]
    for group in range(3):
        ranked = sorted(treaps.order(i)[:2] for i in range(size) if groups[i] == group)[:limit]
        assert sorted(treaps.order(i)[:2] for i in alive if groups[i] == group) == ranked
        assert sizes[group] == len(ranked)


def test_difference_by_row_and_by_rank() -> None:
    old = np.array([[0, 5, 1, 1], [0, 6, 2, 1], [1, 7, 1, 2]])
    new = np.array([[0, 8, 1, 1], [0, 5, 2, 1], [1, 7, 1, 3]])
    position, out = np.zeros(9, np.int64), np.empty((6, 3), np.int64)
    n = topn.difference(old, new.copy(), position, False, out)
    assert sorted(map(tuple, out[:n].tolist())) == [(6, 2, -1), (7, 1, 1), (8, 1, 1)]
    n = topn.difference(old, new.copy(), position, True, out)
    assert sorted(map(tuple, out[:n].tolist())) == [(5, 1, -1), (5, 2, 1), (6, 2, -1), (7, 1, 1), (8, 1, 1)]
    assert not position.any()
