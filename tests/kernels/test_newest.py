"""The newest write of each key, against plain dictionaries."""

from __future__ import annotations

import numpy as np
import pytest

from forebay.kernels.newest import newest_write


def naive(key: list[int], version: list[int], puts: list[bool], held: list[int]) -> tuple[list[int], list[int]]:
    """The same, write by write."""
    rows: dict[int, int] = {k: v for k, v in enumerate(held) if v != -2}
    last = {}
    for i, (k, v, put) in enumerate(zip(key, version, puts)):
        there = rows.get(k, -1)
        if there >= 0 and v < there and not (v == -1 and not put):
            continue
        last[k] = i
        rows.pop(k, None)
        if put:
            rows[k] = v
    return [rows.get(k, -2) for k in range(len(held))], [last.get(k, -1) for k in range(len(held))]


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_naive_fold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, keys = int(rng.integers(0, 200)), int(rng.integers(1, 12))
    key, version = rng.integers(0, keys, n), rng.integers(-1, 6, n)
    puts = rng.random(n) < 0.7
    held = rng.integers(-2, 6, keys)
    last = np.full(keys, -1, np.int64)
    expected = naive(key.tolist(), version.tolist(), puts.tolist(), held.tolist())
    newest_write(key, version, puts, held, last)
    assert (held.tolist(), last.tolist()) == expected
