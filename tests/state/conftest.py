"""Fixtures of tests of state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from forebay.engine.state.coldstore import ColdStore


@pytest.fixture
def store() -> Iterator[ColdStore]:
    made = ColdStore(None)
    yield made
    made.close()
