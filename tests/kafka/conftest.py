"""The two ways of messages between librdkafka and us."""

from __future__ import annotations

import pytest

from forebay.connectors.kafka import direct


@pytest.fixture(params=["direct", "client"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once with librdkafka's own calls and once with confluent-kafka's; names the way, for the topic."""
    monkeypatch.setattr(direct, "ENABLED", request.param == "direct")
    assert (direct.library() is not None) == direct.ENABLED
    return str(request.param)
