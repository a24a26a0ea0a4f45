"""A copying job on the real broker, killed where durability changes hands: every row is there once for committed readers."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kafka.tables import numbers, send, values
from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]
DEATHS = (
    ("checkpoint.rename.after", 2),
    ("kafka.commit.before", 3),
    ("kafka.commit.after", 3),
    ("outbox.confirm.after", 2),
)


def _copy(directory: Path, broker: Broker, place: str, turn: int) -> int:
    command = [sys.executable, "-m", "tests.kafka.copying", str(directory), broker.bootstrap, place, str(turn)]
    done = subprocess.run(command, cwd=ROOT, timeout=100, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def test_a_copy_killed_at_every_hand_over_has_every_row_once(broker: Broker, tmp_path: Path) -> None:
    for topic in ("src", "dst"):
        broker.create_topic(topic, 2)
    sent = 0
    for place, turn in DEATHS:
        send(broker, "src", numbers(*range(sent, sent + 500)))
        sent += 500
        assert _copy(tmp_path, broker, place, turn) == -signal.SIGKILL, place
    send(broker, "src", numbers(*range(sent, sent + 500)))
    assert _copy(tmp_path, broker, "-", 1) == 0
    found = sorted(v or b"" for v in values(broker, "dst"))
    assert found == sorted(b'{"id":%d,"again":%d}' % (i, i * 2) for i in range(sent + 500))
