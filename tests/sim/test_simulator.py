"""A thousand seeded lives and deaths of a warehouse: nothing is lost, nothing is doubled. `make faults` runs many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.connectors.lossy import LossyFiles
from tests.sim.simulation import PLACES, Simulation

PARTS, RUNS = 8, 125
MORE = 1000
passed: set[str] = set()


def simulate(seeds: range, root: Path, *, expires: bool = False) -> int:
    """Run every seed; an assertion names the one that failed. How many rows and groups have expired."""
    prepared: dict[frozenset[str], LossyFiles] = {}
    expired = 0
    for seed in seeds:
        simulation = Simulation(seed, root, prepared, expires=expires)
        try:
            simulation.run(lives=1 + (seed % 4 == 0), turns=150 if expires else 40)
        except Exception as error:
            raise AssertionError(f"seed {seed}, which died at {simulation.deaths or 'no kill point'}") from error
        passed.update(simulation.passed)
        expired += simulation.expiring.expired if simulation.expiring is not None else 0
    return expired


@pytest.mark.parametrize("part", range(PARTS))
def test_every_output_is_exact_whatever_the_crashes(part: int, tmp_path: Path) -> None:
    simulate(range(part * RUNS, (part + 1) * RUNS), tmp_path / "w")


def test_what_expires_is_exact_too(tmp_path: Path) -> None:
    assert simulate(range(3), tmp_path / "w", expires=True) > 5


def test_every_place_was_come_by() -> None:
    assert set(PLACES) <= passed


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(8))
def test_many_more(part: int, tmp_path: Path) -> None:
    simulate(range(10_000 + part * MORE, 10_000 + (part + 1) * MORE), tmp_path / "w")


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_many_more_that_expire(tmp_path: Path) -> None:
    assert simulate(range(20_000, 20_200), tmp_path / "w", expires=True) > 1000


def test_a_seed_is_always_the_same_run(tmp_path: Path) -> None:
    def run(seed: int) -> tuple[object, ...]:
        simulation = Simulation(seed, tmp_path / "w", {})
        simulation.run(lives=2, turns=40)
        return simulation.deaths, simulation.passed, simulation.orders, simulation.disk.list(tmp_path / "w" / "topics")

    assert run(7) == run(7)
    assert run(7) != run(8)
