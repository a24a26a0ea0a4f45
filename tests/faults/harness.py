"""Killing a warehouse under load, and telling whether anything was lost or doubled.

A `Feeder` keeps producing orders, changes of orders and refunds from a seed, and knows what they add up to. `Trial` runs the
victim again and again, each time until it dies where it is told to; at the end `verdict` compares what committed readers see.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.kafka.tables import values
from tests.servers.kafka.broker import Broker

ROOT = Path(__file__).parents[2]
PHASES = {
    "before the manifest's rename": (
        "outbox.seal.before",
        "outbox.seal.after",
        "checkpoint.state.before",
        "checkpoint.state.after",
        "checkpoint.manifest.before",
        "checkpoint.rename.before",
    ),
    "between manifest and commit": ("checkpoint.rename.after", "checkpoint.prune.before", "kafka.offsets.before"),
    "inside commit": (
        "kafka.commit.before",
        "kafka.commit.after",
        "filesink.manifest.after",
        "filesink.rename.before",
        "filesink.rename.after",
        "outbox.confirm.before",
        "outbox.confirm.after",
    ),
    "during restore": ("restore.manifest", "restore.state"),
}
"""Kill points by what is going on there."""
ANY = "at a random instant"
BROKER = "of the broker"
PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Death:
    """Where the victim dies: at the turn of a kill point, or `after` some seconds of its running."""

    phase: str
    place: str = "-"
    turn: int = 1
    after: float = 0.0


def deaths(rng: random.Random, per_phase: int, anywhere: int) -> list[Death]:
    """So many deaths in each phase, and so many at random instants, shuffled; the first after a first checkpoint."""
    planned = [Death(ANY, after=rng.uniform(0.0, 1.5)) for _ in range(anywhere - 1)]
    for phase, places in PHASES.items():
        for number in range(per_phase):
            place = places[number % len(places)]
            turn = (
                rng.randint(1, 2 if place == "restore.state" else 1) if phase == "during restore" else rng.randint(1, 4)
            )
            planned.append(Death(phase, place, turn))
    rng.shuffle(planned)
    return [Death(ANY, after=1.5), *planned]


class Feeder:
    """Produces changes until it is left."""

    def __init__(self, broker: Broker, seed: int) -> None:
        self._producer = Producer(
            {"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )
        self._rng = random.Random(seed)
        self.orders: dict[int, int] = {}
        self.refunds: list[tuple[int, int, int]] = []
        self._next = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for _ in range(10):
                self._change()
            self._producer.poll(0)
            time.sleep(0.01)

    def _change(self) -> None:
        rng, kind = self._rng, self._rng.random()
        if kind < 0.5 or not self.orders:
            self._next += 1
            self._order(self._next, None, rng.randrange(1000))
        elif kind < 0.7:
            order = rng.choice(list(self.orders)) if len(self.orders) < 100 else rng.randint(1, self._next)
            if order in self.orders:
                self._order(order, self.orders[order], rng.randrange(1000))
        elif kind < 0.75:
            order = rng.randint(1, self._next)
            if order in self.orders:
                self._order(order, self.orders[order], None)
        else:
            refund = (len(self.refunds), rng.randint(1, self._next + 5), rng.randrange(100))
            self.refunds.append(refund)
            value = json.dumps(dict(zip(("id", "order_id", "amount"), refund)))
            self._producer.produce("refunds", value, key=str(refund[1]))

    def _order(self, order: int, before: int | None, after: int | None) -> None:
        def row(amount: int | None) -> dict[str, int] | None:
            return None if amount is None else {"id": order, "amount": amount}

        op = "c" if before is None else "d" if after is None else "u"
        self._producer.produce(
            "orders", json.dumps({"before": row(before), "after": row(after), "op": op}), key=str(order)
        )
        if after is None:
            del self.orders[order]
        else:
            self.orders[order] = after

    def flush(self) -> None:
        """Everything produced is acknowledged."""
        left = self._producer.flush(60)
        assert left == 0, f"{left} messages were not acknowledged by the broker"

    def joined(self) -> Counter[tuple[Any, ...]]:
        """Orders ⟕ refunds."""
        by_order: dict[int, list[tuple[int, int]]] = {}
        for refund, order, amount in self.refunds:
            by_order.setdefault(order, []).append((refund, amount))
        return Counter(
            (order, amount, *refund)
            for order, amount in self.orders.items()
            for refund in by_order.get(order, [(None, None)])
        )


@dataclass
class Verdict:
    """What is wrong with the output."""

    lost: int = 0
    doubled: int = 0
    details: list[str] = field(default_factory=list)


class Trial:
    """One warehouse, fed all the time and killed many times."""

    def __init__(self, broker: Broker, directory: Path, seed: int) -> None:
        for topic in ("orders", "refunds", "wide"):
            broker.create_topic(topic, PARTITIONS)
        self._broker = broker
        self._directory = directory
        self._log = directory / "victim.log"
        self.killed: Counter[str] = Counter()
        self.acknowledged: list[int] = []
        self.feeder = Feeder(broker, seed)

    def _victim(self, place: str, turn: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.faults.victim"]
        command += [str(self._directory), self._broker.bootstrap, place, str(turn)]
        with open(self._log, "a") as log:
            return subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, env=dict(os.environ)
            )

    def kill(self, death: Death) -> None:
        """Run the victim until it dies there."""
        victim = self._victim(death.place, death.turn)
        killer = threading.Timer(30 if death.place != "-" else 1.5 + death.after, victim.kill)
        killer.start()
        out, _ = victim.communicate(timeout=90)
        in_time = killer.is_alive()
        killer.cancel()
        assert victim.returncode == -signal.SIGKILL, self._log.read_text()[-3000:]
        assert death.place == "-" or in_time, f"{death.place} was not reached"
        self.killed[death.phase] += 1
        self.acknowledged += [int(line.split()[1]) for line in out.splitlines() if line.startswith("ack ")]

    def kill_broker(self) -> None:
        """kill -9 of the broker while the victim runs; it comes back, the victim goes on, and dies in its turn."""
        victim = self._victim("-", 1)
        time.sleep(3.0)
        self._broker.kill()
        time.sleep(1.0)
        self._broker.restart()
        time.sleep(4.0)
        assert victim.poll() is None, self._log.read_text()[-3000:]
        victim.kill()
        out, _ = victim.communicate(timeout=30)
        self.killed[BROKER] += 1
        self.acknowledged += [int(line.split()[1]) for line in out.splitlines() if line.startswith("ack ")]

    def verdict(self) -> Verdict:
        """Let a last victim read everything, and look."""
        self.feeder.flush()
        victim = self._victim("end", 1)
        out, _ = victim.communicate(timeout=200)
        assert victim.returncode == 0, self._log.read_text()[-3000:]
        found = Verdict()
        self._look_at_wide(found)
        self._look_at_files(found)
        notes = next([int(n) for n in line.split()[1:]] for line in out.splitlines() if line.startswith("notes"))
        self._compare("notes", Counter(notes), Counter(set(self.acknowledged)), found, more=True)
        return found

    def _look_at_wide(self, found: Verdict) -> None:
        rows: Counter[tuple[Any, ...]] = Counter()
        for value in values(self._broker, "wide"):
            change = json.loads(value or b"{}")
            for side, weight in (("before", -1), ("after", 1)):
                if change.get(side) is not None:
                    rows[tuple(change[side][c] for c in ("id", "amount", "refund", "refunded"))] += weight
        self._compare("wide", Counter({k: v for k, v in rows.items() if v}), self.feeder.joined(), found)

    def _look_at_files(self, found: Verdict) -> None:
        files = self._directory / "files"
        visible = [p for p in files.rglob("*") if not any(n.startswith((".", "_")) for n in p.relative_to(files).parts)]
        lines = [line for path in visible if path.is_file() for line in path.read_text().splitlines()]
        ids = Counter(json.loads(line)["id"] for line in lines)
        self._compare("files", ids, Counter(range(len(self.feeder.refunds))), found)

    @staticmethod
    def _compare(name: str, shown: Counter[Any], expected: Counter[Any], found: Verdict, *, more: bool = False) -> None:
        """`more`: rows that nobody expects are right too, once."""
        lost = expected - shown
        doubled = Counter({k: v - 1 for k, v in shown.items() if v > 1}) if more else shown - expected
        found.lost += sum(lost.values())
        found.doubled += sum(doubled.values())
        if lost or doubled:
            found.details.append(f"{name}: lost {list(lost.items())[:5]}, doubled {list(doubled.items())[:5]}")
