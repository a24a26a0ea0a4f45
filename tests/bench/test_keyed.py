"""Keyed operators over far more groups than fit give the right changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bench import keyed


def test_retractions_take_back_earlier_rows() -> None:
    rows = keyed.Rows(10_000, 1000)
    reader = keyed.RowSource(rows, "retract").reader(None)
    weights: dict[tuple[int, int], int] = {}
    while (fetched := reader.poll(777, 0.0)) is not None:
        batch = fetched.batch
        for k, v, weight in zip(*(c.to_pylist() for c in batch.rows.columns[:2]), batch.weight_array().tolist()):
            weights[k, v] = weights.get((k, v), 0) + weight
            assert weights[k, v] in (0, 1)
    gone = rows.retracted(np.arange(10_000))
    assert sum(weights.values()) == 10_000 - gone.size
    assert 1200 < gone.size < 1800


def test_results_are_right_with_cold_groups(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    args = ["--rows", "150000", "--keys", "100000", "--budget", "24MB", "--core", "-1", "--json", str(out)]
    assert keyed.main([*args, "--cases", "min-max,top-n"]) == 0
    for entry in json.loads(out.read_text())["results"]:
        assert entry["correct"] and entry["segments"] > 0
