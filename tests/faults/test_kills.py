"""kill -9 under load on a real broker: nothing is lost, nothing is doubled, whatever the instant."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench import measure
from tests.faults.harness import ANY, BROKER, PHASES, Trial, deaths
from tests.servers.kafka.broker import Broker, missing

pytestmark = pytest.mark.kafka


@pytest.fixture
def own_broker(tmp_path: Path) -> Broker:  # type: ignore[misc]
    """A broker of this test alone: its topics have fixed names, and it may be killed."""
    lacking = missing()
    if lacking:
        pytest.skip(f"the Kafka broker needs {lacking}")
    (tmp_path / "kafka").mkdir()
    running = Broker(tmp_path / "kafka")
    running.start()
    yield running
    running.stop()


def test_twenty_kills(own_broker: Broker, tmp_path: Path) -> None:
    trial = Trial(own_broker, tmp_path, seed=1)
    with trial.feeder:
        for death in deaths(random.Random(1), per_phase=4, anywhere=4):
            trial.kill(death)
    verdict = trial.verdict()
    assert (verdict.lost, verdict.doubled) == (0, 0), verdict.details
    assert trial.killed == {ANY: 4} | dict.fromkeys(PHASES, 4)
    assert len(trial.feeder.joined()) > 500
    assert len(trial.acknowledged) > 20


@pytest.mark.faults
def test_a_hundred_kills(own_broker: Broker, tmp_path: Path) -> None:
    """Writes `bench/results/faults.json`, from which docs/faults.md has its table."""
    trial = Trial(own_broker, tmp_path, seed=2)
    planned = deaths(random.Random(2), per_phase=24, anywhere=12)
    with trial.feeder:
        for number, death in enumerate(planned):
            trial.kill(death)
            if number % (len(planned) // 6) == 0:
                trial.kill_broker()
    verdict = trial.verdict()
    rows = sum(trial.feeder.joined().values()) + len(trial.feeder.refunds) + len(trial.acknowledged)
    entries = [{"case": f"kill -9 {phase}", "kills": kills} for phase, kills in sorted(trial.killed.items())]
    total = {"case": "all", "kills": sum(trial.killed.values()), "rows": rows}
    entries.append(total | {"lost": verdict.lost, "doubled": verdict.doubled})
    measure.report("faults", entries, str(Path(__file__).parents[2] / "bench" / "results" / "faults.json"))
    assert (verdict.lost, verdict.doubled) == (0, 0), verdict.details
    assert trial.killed[BROKER] >= 5
    assert sum(trial.killed.values()) >= 100
