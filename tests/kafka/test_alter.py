"""ALTER JOB with real Kafka sinks: topics hold what the old query gave before and the new one since, once, over kills too."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kafka.alter_victim import main
from tests.kafka.tables import messages, values
from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]
PLACES = [
    ("checkpoint.state.after", 1),
    ("checkpoint.rename.before", 1),
    ("checkpoint.rename.after", 1),
    ("catalog.rename.before", 1),
    ("checkpoint.rename.before", 2),
    ("catalog.rename.before", 2),
    ("outbox.seal.after", 1),
    ("kafka.commit.before", 1),
    ("kafka.commit.after", 1),
]


def run(root: Path, broker: Broker, prefix: str, place: str, turn: int) -> int:
    command = [sys.executable, "-m", "tests.kafka.alter_victim", str(root), broker.bootstrap, prefix, place, str(turn)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def check(broker: Broker, prefix: str) -> None:
    """Every line once, those since the ALTER by the new query; the last row of each shop is the new query's."""
    lines = sorted(tuple(json.loads(v or b"").values()) for v in values(broker, f"{prefix}lines"))
    assert lines == [(1, 3), (1, 4), (2, 200), (3, 5), (4, 100)]
    last: dict[str, Any] = {}
    for message in messages(broker, f"{prefix}by-shop"):
        key = json.loads(message.key())["shop"]
        row = None if message.value() is None else json.loads(message.value())
        assert row is None or row != last.get(key), "the same row twice in a row"
        last[key] = row
    shown = sorted((r["shop"], r["a"], r["b"]) for r in last.values() if r is not None)
    assert shown == [("x", 9, 20), ("y", 5, 5), ("z", 1, 1)]


def topics(broker: Broker, prefix: str) -> None:
    for topic in ("lines", "by-shop"):
        broker.create_topic(prefix + topic, 1)


def test_topics_after_an_alter(broker: Broker, tmp_path: Path) -> None:
    topics(broker, "alter-")
    main(tmp_path / "w", broker.bootstrap, "alter-", "none", 1)
    check(broker, "alter-")


@pytest.mark.faults
@pytest.mark.parametrize(("place", "turn"), PLACES)
def test_a_kill_at_each_place_of_an_alter(broker: Broker, tmp_path: Path, place: str, turn: int) -> None:
    prefix = f"{place}-{turn}-"
    topics(broker, prefix)
    run(tmp_path / "w", broker, prefix, place, turn)
    assert run(tmp_path / "w", broker, prefix, "none", 1) == 0
    check(broker, prefix)
