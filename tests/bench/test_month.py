"""The month of orders and refunds has the proportions it says, and the join over it is right with and without a budget."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import month_join
from bench.month import DAYS, Month


def test_proportions() -> None:
    month = Month(200_000)
    updated = np.concatenate([month.updated(w) for w in range(month.windows)])
    assert np.unique(updated).size == updated.size
    assert updated.size == pytest.approx(0.2 * month.orders, rel=0.03)
    orders, ticks = month.refunds
    days = (ticks - orders) * DAYS / month.orders
    early = days[orders < month.orders // 3]  # 20 days left: few are cut off
    assert orders.size == pytest.approx(0.05 * month.orders, rel=0.25)
    assert np.median(early) == pytest.approx(2.0, rel=0.15)
    assert (np.diff(ticks) >= 0).all()
    assert days.min() > 0 and days.max() <= DAYS


def test_windows_hold_every_change_once() -> None:
    month, late = Month(10_000), Month(10_000, late_updates=True)
    for source in (month, late):
        weights: dict[tuple[int, str], int] = {}
        for window in range(source.windows):
            batch = source.order_changes(window)
            for order, status, weight in zip(
                batch.rows.column("order_id").to_pylist(),
                batch.rows.column("status").to_pylist(),
                batch.weight_array().tolist(),
            ):
                weights[order, status] = weights.get((order, status), 0) + weight
        live = [key for key, weight in weights.items() if weight]
        assert sorted(order for order, _ in live) == list(range(10_000))
        assert all(weights[key] == 1 for key in live)


@pytest.mark.parametrize("variant", ["plain", "late-updates"])
def test_the_join_is_right_with_cold_state(variant: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    args = ["--orders", "300000", "--budget", "50MB", "--variant", variant, "--core", "-1", "--json", str(out)]
    assert month_join.main(args) == 0
    (entry,) = json.loads(out.read_text())["results"]
    assert entry["correct"] and entry["segments"] > 0
