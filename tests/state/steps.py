"""Small steps: eviction, merging and sweeping stop and go on within a few rows, so that tests see them half done."""

from __future__ import annotations

import pytest


def small_group_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """For keyed groups."""
    monkeypatch.setattr("forebay.engine.state.eviction._STEP", 1)
    monkeypatch.setattr("forebay.engine.state.spill._STEPS", 2)
    monkeypatch.setattr("forebay.engine.state.coldtable._DEAD", 5)
    monkeypatch.setattr("forebay.engine.state.cold._SLICE", 3)
    monkeypatch.setattr("forebay.engine.state.cold.FAN", 2)
    monkeypatch.setattr("forebay.engine.state.cold.DEAR", 0)
    monkeypatch.setattr("forebay.engine.state.groups.LEAST", 0)
