"""Fixtures shared by all tests: one real Kafka broker per process that runs some."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from forebay.engine.state.coldstore import ColdStore
from tests.servers.kafka.broker import Broker, missing

settings.register_profile("forebay", deadline=None)  # no test has a time limit: machines differ
settings.load_profile("forebay")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker. Where Java or Maven are missing tests skip, except in continuous integration."""
    lacking = missing()
    if lacking and os.environ.get("CI") != "true":
        pytest.skip(f"the Kafka broker needs {lacking}")
    running = Broker(tmp_path_factory.mktemp("kafka"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def store() -> Iterator[ColdStore]:
    """A cold store in a directory of its own, gone at the end."""
    made = ColdStore(None)
    yield made
    made.close()
