"""What kernels read is what the reference reads: rows to the bit, NULLs, weights, dead letters, statements."""

from __future__ import annotations

import pytest

from tests.formats.fuzz import FORMATS, fuzz


def test_random_records() -> None:
    done, read = fuzz(seed=5, count=2400 * len(FORMATS), size=300)
    assert read > done // 5


@pytest.mark.faults
@pytest.mark.timeout(0)
def test_ten_million_random_records() -> None:
    total, seed = 0, 1000
    while total < 10_000_000:
        total += fuzz(seed, 200_000, 1000)[0]
        seed += 1


@pytest.mark.parametrize("size", [1, 23, 24, 25, 64, 65])
def test_batches_of_any_size(size: int) -> None:
    fuzz(seed=size, count=12 * size, size=size)
