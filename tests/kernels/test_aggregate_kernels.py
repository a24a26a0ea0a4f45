"""Accumulator kernels against Python's exact numbers: integers, fractions, `math.fsum`."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.kernels import aggregate as kernels
from forebay.kernels.group import changed, displace, find, gather, intern, place, scatter, take_live, touch

WITHIN = st.floats(-1e9, 1e9, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-9)
FINITE = st.floats(-1e306, 1e306)
I128 = st.integers(-(10**38) + 1, 10**38 - 1)
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # words wrap, also when not compiled
settings.register_profile("kernels", deadline=None)
settings.load_profile("kernels")


def add(acc: np.ndarray, values: list[float], weights: list[int]) -> None:
    bits = np.array(values).view(np.int64)
    kernels.add_float(acc, 0, np.zeros(len(values), np.int64), np.array(weights, np.int64), bits)


def float_sum(acc: np.ndarray) -> float:
    out = np.empty(1)
    kernels.float_result(acc, 0, out)
    return float(out[0])


def exact(values: list[float], weights: list[int]) -> float:
    return float(sum((Fraction(v) * w for v, w in zip(values, weights)), Fraction(0)))


@given(st.lists(st.tuples(WITHIN, st.integers(-3, 3)), min_size=1, max_size=60))
def test_float_sum_is_correctly_rounded(changes: list[tuple[float, int]]) -> None:
    values, weights = [v for v, _ in changes], [w for _, w in changes]
    acc = np.zeros((1, kernels.FLOAT_WIDTH), np.int64)
    add(acc, values, weights)
    assert float_sum(acc) == exact(values, weights)


@given(st.lists(WITHIN, min_size=1, max_size=40), st.lists(WITHIN, max_size=40))
def test_retraction_leaves_no_trace(kept: list[float], passing: list[float]) -> None:
    acc = np.zeros((1, kernels.FLOAT_WIDTH), np.int64)
    add(acc, passing + kept, [1] * (len(passing) + len(kept)))
    add(acc, passing, [-1] * len(passing))
    assert float_sum(acc) == math.fsum(kept)


@given(st.lists(FINITE, min_size=1, max_size=30))
def test_any_range_stays_close(values: list[float]) -> None:
    """Far apart, the smallest lose bits: an error below 2^-90 of the largest value."""
    acc = np.zeros((1, kernels.FLOAT_WIDTH), np.int64)
    add(acc, values, [1] * len(values))
    expected = sum(map(Fraction, values), Fraction(0))
    got = float_sum(acc)
    margin = abs(expected) * Fraction(2) ** -52 + max(Fraction(abs(v)) for v in values) * Fraction(2) ** -90
    assert abs(Fraction(got) - expected) <= margin + Fraction(5e-324)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="Python's ldexp raises where the compiled one gives infinity")
def test_a_sum_beyond_every_double_is_infinite_until_it_comes_back() -> None:
    acc = np.zeros((1, kernels.FLOAT_WIDTH), np.int64)
    add(acc, [1.7e308, 1.7e308], [1, 1])
    assert float_sum(acc) == math.inf
    add(acc, [1.7e308], [-1])
    assert float_sum(acc) == 1.7e308


def test_infinities_and_nan_come_and_go() -> None:
    acc = np.zeros((1, kernels.FLOAT_WIDTH), np.int64)
    add(acc, [1.5, math.inf], [1, 2])
    assert float_sum(acc) == math.inf
    add(acc, [-math.inf], [1])
    assert math.isnan(float_sum(acc))
    add(acc, [math.inf], [-2])
    assert float_sum(acc) == -math.inf
    add(acc, [math.nan, -math.inf], [1, -1])
    assert math.isnan(float_sum(acc))
    add(acc, [math.nan], [-1])
    assert float_sum(acc) == 1.5


@given(st.lists(st.tuples(I128, st.integers(-5, 5)), min_size=1, max_size=20), st.integers(0, 8), st.integers(1, 2**40))
def test_decimal_sum_and_quotient(changes: list[tuple[int, int]], up: int, divisor: int) -> None:
    words = [(v & (2**64 - 1), (v >> 64) & (2**64 - 1)) for v, _ in changes]
    low, high = (np.array([w[k] for w in words], np.uint64) for k in (0, 1))
    weights = np.array([w for _, w in changes], np.int64)
    acc = np.zeros((1, kernels.DECIMAL_WIDTH), np.int64)
    kernels.add_decimal(acc, 0, np.zeros(len(changes), np.int64), weights, low, high)
    assert acc[0, 3] == weights.sum()
    out, valid = np.empty((1, 2), np.uint64), np.empty(1, np.uint8)
    limit = 10**38
    kernels.decimal_result(
        acc, 0, np.array([divisor]), up, 1, np.uint64(limit & (2**64 - 1)), np.uint64(limit >> 64), out, valid
    )
    with localcontext() as context:
        context.prec = 120
        total = Decimal(sum(v * w for v, w in changes)).scaleb(up) / divisor
        expected = int(total.quantize(Decimal(1), ROUND_HALF_UP))
    if sum(v * w for v, w in changes) * 10**up >= 2**190:
        return  # beyond what a wide holds
    assert valid[0] == (abs(expected) < limit)
    if valid[0]:
        assert int(out[0, 0]) | int(out[0, 1]) << 64 == expected % 2**128


@pytest.mark.parametrize("less", [0, 1])
@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=2, max_size=40), st.sampled_from([0.0, 1e9]))
def test_variance_survives_a_large_mean(less: int, values: list[float], shift: float) -> None:
    numbers = np.array(values) + shift
    n = len(values)
    acc = np.zeros((1, kernels.VARIANCE_WIDTH), np.int64)
    groups, weights = np.zeros(n, np.int64), np.ones(n, np.int64)
    kernels.add_variance(acc, 0, groups, weights, numbers, numbers.view(np.int64), np.empty(2))
    out = np.empty(1)
    kernels.variance_result(acc, 0, less, out)
    exact_values = [Fraction(v) for v in numbers.tolist()]
    mean = sum(exact_values) / n
    expected = sum((v - mean) ** 2 for v in exact_values) / (n - less)
    assert math.isclose(out[0], float(expected), rel_tol=1e-9, abs_tol=1e-12)
    kernels.add_variance(acc, 0, groups[1:], -weights[1:], numbers[1:], numbers[1:].view(np.int64), np.empty(2))
    kernels.variance_result(acc, 0, 0, out)
    assert out[0] == 0.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9), st.integers(0, 2)), max_size=40), st.booleans())
def test_keep_best(rows: list[tuple[int, int, int]], greatest: bool) -> None:
    acc = np.zeros((6, 2), np.int64)
    g, v, w = (np.array([r[k] for r in rows], np.int64) for k in range(3))
    kernels.keep_best(acc, 0, g, w, v.reshape(-1, 1), greatest)
    for group in range(6):
        values = [b for a, b, weight in rows if a == group and weight]
        assert bool(acc[group, 1]) == bool(values)
        if values:
            assert acc[group, 0] == (max(values) if greatest else min(values))


@given(st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=20))
def test_hash_slots_follow_a_dictionary(batches: list[list[int]]) -> None:
    """Interning, finding and taking out, with hashes that crowd a few slots."""
    slots = np.zeros((64, 2), np.uint64)
    known: dict[int, int] = {}
    following = 0
    for batch in batches:
        hashes = np.array([h * 64 + h % 3 for h in batch], np.uint64)
        free = np.arange(following, following + len(batch))
        ids, born = np.empty(len(batch), np.int64), np.empty(len(batch), np.int64)
        count = intern(hashes, slots, free, ids, born)
        for h, got in zip(batch, ids.tolist()):
            assert known.setdefault(h, got) == got
        assert count == len(known) - sum(k < following for k in known.values())
        following += count
        gone = sorted(known)[::2]
        taken = np.array([known.pop(h) for h in gone], np.int64)
        displace(np.array([h * 64 + h % 3 for h in gone], np.uint64), taken, slots)
        asked = np.arange(31, dtype=np.uint64)
        found = np.empty(31, np.int64)
        find(asked * np.uint64(64) + asked % np.uint64(3), slots, found)
        assert found.tolist() == [known.get(h, -1) for h in range(31)]
    again = np.zeros((64, 2), np.uint64)
    place(np.array(list(known), np.uint64), np.array(list(known.values()), np.int64), again)
    assert (again[:, 1] != 0).sum() == len(known)


def test_touch_gather_scatter_changed() -> None:
    stamp, out, first = np.zeros(6, np.int64), np.empty(5, np.int64), np.empty(5, np.int64)
    n = touch(np.array([3, 1, 3, 5, 1]), stamp, 7, out, first)
    assert out[:n].tolist() == [3, 1, 5]
    assert first[:n].tolist() == [0, 1, 3]
    assert touch(np.array([1, 5]), stamp, 7, out, first) == 0
    words = np.arange(12).reshape(6, 2)
    part = np.empty((2, 2), np.int64)
    gather(words, np.array([4, 0]), part)
    assert part.tolist() == [[8, 9], [0, 1]]
    scatter(part + 1, np.array([4, 0]), words)
    assert words[4].tolist() == [9, 10]
    assert changed(np.arange(12).reshape(6, 2), words, out) == 2
    assert out[:2].tolist() == [0, 4]
    live = np.array([1, 0, 1, 1], np.uint8)
    assert take_live(np.array([2, 1, 2, 0]), live, out) == 2
    assert live.tolist() == [0, 0, 0, 1]
