"""A warehouse in which nothing fits into memory, through the budget itself."""

from __future__ import annotations

import pytest

from forebay.engine.runtime.budget import Budget
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.state.arrangement import Arrangement
from tests.state.test_tiers import close_chunk

_KEEP = Budget.keep


def seal_always(budget: Budget, flow: Dataflow, rows: int) -> None:
    """As `Budget.keep` with a budget of one byte, and chunks of any size."""
    budget.limit = 1
    for node in flow.order:
        for state in node.states().values():
            if isinstance(state, Arrangement):
                close_chunk(state)
    _KEEP(budget, flow, rows + 32768)


def press(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal all that can be sealed, and merge every two segments."""
    monkeypatch.setattr(Budget, "keep", seal_always)
    monkeypatch.setattr("forebay.engine.runtime.driver.check_fits", lambda *_: None)  # no job fits in one byte
    monkeypatch.setattr("forebay.engine.state.groups.LEAST", 0)
    monkeypatch.setattr("forebay.engine.state.cold.FAN", 2)
    monkeypatch.setattr("forebay.engine.state.cold.DEAR", 0)
