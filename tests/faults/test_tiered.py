"""kill -9 while state is sealed, merged, collected, saved, copied, restored and bootstrapped: nothing is lost or doubled."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench import measure
from tests.bootstrap.test_kills import check, world_at
from tests.faults import tiered
from tests.faults.lives import ANY, END, PHASES, Death, Ended, anywhere, deaths, live, said, somewhere

SAVING = "while making a savepoint"
RUNNING = {
    "while sealing": (
        "cold.seal.before",
        "cold.evict.before",
        "cold.ingest.before",
        "cold.ingest.after",
        "cold.evict.after",
    ),
    "while merging": ("cold.merge.before", "cold.merge.after"),
    "while collecting": ("cold.collect.before",),
    "during a checkpoint": (
        "checkpoint.state.before",
        "checkpoint.manifest.before",
        "checkpoint.rename.before",
        "checkpoint.rename.after",
        "checkpoint.prune.before",
    ),
    SAVING: (
        "savepoint.link.before",
        "savepoint.record.before",
        "savepoint.record.after",
        "savepoint.drop.before",
        "savepoint.drop.after",
        "savepoint.copy.before",
        "savepoint.copied",
        "savepoint.publish.before",
        "savepoint.publish.after",
        "savepoint.withdraw.before",
    ),
    "during the restart": ("restore.manifest", "restore.state"),
}
"""Kill points by what is going on there; those of a restart and of a restore come by once or twice in a life."""
RESTORING = {
    "while restoring a savepoint": (
        "restore.stage.before",
        "restore.journal.before",
        "restore.journal.after",
        "restore.finish.before",
        "restore.finish.after",
    )
}
LIVING = ("while sealing", "while merging", "during a checkpoint", SAVING)
"""In what else a life dies at random instants."""
FETCHING = {"while restoring a copy": ("restore.fetch.before", *RESTORING["while restoring a savepoint"])}
BOOTING = {
    "during a bootstrap": (
        "bootstrap.run.before",
        "bootstrap.run.after",
        "bootstrap.manifest.before",
        "bootstrap.manifest.after",
        "bootstrap.segment.before",
        "bootstrap.segment.after",
        "bootstrap.ready",
        "bootstrap.drop.before",
    )
}
ONCE = {*RUNNING["during the restart"], *RESTORING["while restoring a savepoint"], "bootstrap.ready"}


@dataclass
class Trial:
    """One warehouse, killed again and again, and what was found in it."""

    root: Path
    sink: bool
    kills: Counter[str] = field(default_factory=Counter)
    doing: Counter[str] = field(default_factory=Counter)
    """In what it was killed at random instants; it may be several things at once, or none of them."""
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    acknowledged: int = 0
    _read: int = 0
    _restoring: int | None = None

    def life(self, death: Death, target: Callable[..., None], *arguments: Any) -> None:
        """Let it live and die once, and look at what it said."""
        self.count(death, live(target, death, self.root / "record", str(self.root), *arguments))
        lines = said(self.root / "record")
        for line in lines[self._read :]:
            self._take(line)
        self._read = len(lines)

    def count(self, death: Death, ended: Ended) -> None:
        self.kills[death.phase] += ended.killed
        self.doing.update(ended.doing)

    def _take(self, line: dict[str, Any]) -> None:
        if "orders" in line:
            self._look(line)
        elif "restoring" in line:
            self._restoring = line["restoring"]
        elif "restored" in line:
            self.acknowledged, self._restoring = line["restored"], None
        elif "ack" in line:
            self.acknowledged = line["ack"]

    def _look(self, found: dict[str, Any]) -> None:
        orders = Counter((i, v) for i, v in found["orders"])
        fitting = tiered.rounds(self.acknowledged + 1)
        if self._restoring is not None and orders == Counter(tiered.rounds(self._restoring + 1)[0].items()):
            self.acknowledged, self._restoring = self._restoring, None
            fitting = tiered.rounds(self.acknowledged + 1)
        wrong = [(Counter(f.items()) - orders, orders - Counter(f.items())) for f in fitting]
        lost, doubled = min(wrong, key=lambda w: w[0].total() + w[1].total())
        self.rows += found["rows"] + orders.total()
        self.lost += found["lost"] + lost.total()
        self.doubled += found["doubled"] + doubled.total()
        assert not (self.lost or self.doubled), (self.acknowledged, lost, doubled, found)


def trial_at(root: Path, *, sink: bool) -> Trial:
    root.mkdir()
    return Trial(root, sink)


def shuffled(rng: random.Random, *planned: Sequence[Death]) -> list[Death]:
    deaths = [death for part in planned for death in part]
    rng.shuffle(deaths)
    return deaths


def run(trial: Trial, planned: Sequence[Death]) -> None:
    """The deaths of `RUNNING` and at random instants, and a last life that compares the sink's topic."""
    for death in (Death("during a checkpoint", "checkpoint.prune.before"), *planned):
        trial.life(once(death), tiered.work, trial.sink, False)
    trial.life(Death(END), tiered.end, trial.sink)


def once(death: Death) -> Death:
    """A place that a life comes by once is fatal the first time."""
    return Death(death.phase, death.place, 1, death.after) if death.place in ONCE else death


def restore(trial: Trial, planned: Sequence[Death]) -> None:
    """Make savepoints, go back to one, die on the way, and go on."""
    for number, death in enumerate(planned):
        if number % 2 == 0:  # each is gone back to twice
            trial.life(Death(SAVING, "savepoint.drop.after"), tiered.work, trial.sink, False)
        trial.life(once(death), tiered.work, trial.sink, True)
    trial.life(Death(END), tiered.end, trial.sink)


def fetch(trial: Trial, planned: Sequence[Death]) -> None:
    """Make warehouses of a copy, die on the way, and look at what comes of it."""
    trial.life(Death(SAVING, "savepoint.publish.after"), tiered.work, trial.sink, False)
    for number, death in enumerate(planned):
        for how in (once(death), Death(END)):
            trial.life(how, tiered.copy_back, number)


def boot(trial: Trial, seed: int, planned: Sequence[Death]) -> None:
    """Bootstrap a warehouse, die on the way, and compare the views with the batch answer."""
    root = trial.root / str(seed)
    root.mkdir()
    world = world_at(root, seed)
    for death in sorted(planned, key=lambda d: d.phase == ANY):  # no death among the first statements
        trial.count(death, live(tiered.bootstrap, death, root / "record", str(root)))
    live(tiered.bootstrap, Death(END), root / "record", str(root))
    check(world, said(root / "record")[-1])


def test_a_kill_in_each_phase(tmp_path: Path) -> None:
    rng = random.Random(1)
    trial = Trial(tmp_path, sink=True)
    planned = [*deaths(rng, {k: v[:1] for k, v in RUNNING.items()}, 1), *anywhere(rng, 1, 1.2)]
    run(trial, planned)
    (tmp_path / "back").mkdir()
    back = Trial(tmp_path / "back", sink=False)
    restore(back, deaths(rng, {k: v[2:3] for k, v in RESTORING.items()}, 1))
    assert trial.kills == Counter([*RUNNING, ANY, "during a checkpoint"])
    assert back.kills["while restoring a savepoint"] == 1


@pytest.mark.faults
@pytest.mark.timeout(3000)
def test_hundreds_of_kills(tmp_path: Path) -> None:
    """Writes `bench/results/faults-state.json`, from which docs/faults.md has its table."""
    rng = random.Random(2)
    trials = [trial_at(tmp_path / f"w{n}", sink=True) for n in range(4)]
    for trial in trials:
        instants = [somewhere(rng, phase, 6) for phase in LIVING]
        run(trial, shuffled(rng, deaths(rng, RUNNING, 6), anywhere(rng, 18, 1.6), *instants))
    for go, phases, number in ((restore, RESTORING, 25), (fetch, FETCHING, 15)):
        (phase,) = phases
        trials.append(trial_at(tmp_path / go.__name__, sink=False))
        go(trials[-1], shuffled(rng, deaths(rng, phases, 24), somewhere(rng, phase, number)))
    trials.append(trial_at(tmp_path / "boot", sink=False))
    for seed in range(10):
        boot(trials[-1], 100 + seed, [*map(once, deaths(rng, BOOTING, 5)), *somewhere(rng, "during a bootstrap", 3)])
    kills, doing = (sum(counts, Counter[str]()) for counts in zip(*((t.kills, t.doing) for t in trials)))
    entries = [{"case": f"kill -9 {phase}", "kills": count} for phase, count in sorted(kills.items())]
    entries[1:1] = [{"case": f"of these {phase}", "kills": doing[phase]} for phase in PHASES]
    total = {"case": "all", "kills": kills.total(), "rows": sum(t.rows for t in trials)}
    entries.append(total | {"lost": sum(t.lost for t in trials), "doubled": sum(t.doubled for t in trials)})
    measure.report("faults-state", entries, str(Path(__file__).parents[2] / "bench" / "results" / "faults-state.json"))
    assert kills[ANY] >= 220, kills
    assert kills.total() - kills[ANY] >= 200
    assert min(kills[phase] for phase in (*RUNNING, *RESTORING, *FETCHING, *BOOTING)) >= 10
    assert min(doing[phase] for phase in PHASES) >= 10, doing
