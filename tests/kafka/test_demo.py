"""The demo on a real Kafka: its topics are there, and its numbers equal a batch recomputation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.kafka.broker import Broker

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]


def test_the_demo_runs_on_kafka(broker: Broker) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "forebay", "demo", "--orders", "3000"],
        cwd=ROOT,
        env=dict(os.environ) | {"KAFKA_BOOTSTRAP": broker.bootstrap},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Every number equals a batch recomputation." in done.stdout
    assert any("binlog" in name for name in broker.admin().list_topics(timeout=10).topics)
