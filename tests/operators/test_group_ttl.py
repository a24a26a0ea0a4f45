"""Keyed operators with a time to live against a slow obvious twin that keeps lists of rows by key.

The twin is the definition: a group whose last update is older than the bound is as if it had never been, rows that would make
one that is born too old are dropped, and all else is as without a TTL. The engine's groups are evicted, merged, swept, saved and
undone at random meanwhile.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from forebay.engine.operators.accumulators import CallSpec
from forebay.engine.operators.aggregate import AggregateOperator, AggregateSpec
from forebay.engine.operators.base import Turn
from forebay.engine.operators.expiry import GroupingOperator, GroupLife
from forebay.engine.operators.horizon import ALWAYS, Lifetime
from forebay.engine.operators.normalize import NormalizeOperator, UpsertKeyOperator
from forebay.engine.operators.rank import RankOperator, RankSpec
from forebay.engine.state import Segmented, Tiered
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.order import Order
from tests.operators.changelogs import batches_of, net
from tests.state.steps import small_group_steps

Row = tuple[Any, ...]
START = datetime(2026, 1, 1)
SECOND = 1_000_000
ROWS = pa.schema([("k", pa.string()), ("s", pa.int64()), ("v", pa.int64()), ("t", pa.timestamp("ms"))])
K, S, V, T = range(4)
PLAIN = pa.schema(list(ROWS)[:T])
CALLS = (
    CallSpec("count", (), pa.int64()),
    CallSpec("sum", (V,), pa.int64()),
    CallSpec("min", (V,), pa.int64()),
    CallSpec("max", (V,), pa.int64()),
    CallSpec("count", (S,), pa.int64(), distinct=True),
)


def micros(time: datetime | None) -> int:
    return 2**63 - 1 if time is None else (time - datetime(1970, 1, 1)) // timedelta(microseconds=1)


@dataclass
class Group:
    rows: list[Row] = field(default_factory=list)
    last: int = ALWAYS


Change = Callable[[list[Row], list[tuple[Row, int]]], tuple[list[Row], list[Row]]]
"""(rows of a group, an epoch's changes of it) -> (its rows after that, the rows that update it)."""


def collect(rows: list[Row], changes: list[tuple[Row, int]]) -> tuple[list[Row], list[Row]]:
    """A multiset in order of arrival. What is net taken away and not there is nothing."""
    total = Counter(rows)
    for row, weight in changes:
        total[row] += weight
    order = [*dict.fromkeys(rows), *(r for r, _ in changes if r not in rows)]
    return [r for r in dict.fromkeys(order) for _ in range(total[r])], [r for r, _ in changes]


def upsert(rows: list[Row], changes: list[tuple[Row, int]]) -> tuple[list[Row], list[Row]]:
    row, weight = changes[-1]
    return ([row] if weight > 0 else []), [r for r, _ in changes]


def best(rows: list[Row], changes: list[tuple[Row, int]]) -> tuple[list[Row], list[Row]]:
    """The first two by (s, v) of rows that never leave."""
    kept = sorted([*rows, *(r for r, _ in changes)], key=lambda r: (r[S], r[V]))[:2]
    return kept, [r for r, _ in changes if r in kept]


def best_ranks(rows: list[Row], changes: list[tuple[Row, int]]) -> tuple[list[Row], list[Row]]:
    """Those of which less than two have a smaller s."""
    every = [*rows, *(r for r, _ in changes)]
    kept = [r for r in every if sum(o[S] < r[S] for o in every) < 2]
    return kept, [r for r, _ in changes if r in kept]


def totals(rows: list[Row]) -> list[Row]:
    values = [r[V] for r in rows]
    return [(rows[0][K], len(rows), sum(values), min(values), max(values), len({r[S] for r in rows}))]


def cut(rows: list[Row]) -> list[Row]:
    return [r[:T] for r in rows]


@dataclass(frozen=True)
class Case:
    """An operator, and what it is to its twin."""

    make: Callable[[GroupLife], GroupingOperator]
    change: Change
    shown: Callable[[list[Row]], list[Row]]
    append: bool = False
    upserts: bool = False
    reads: tuple[int, ...] | None = None
    """A row that a new group does not know is told by these columns, and its time."""


def aggregate(calls: tuple[CallSpec, ...], append: bool) -> Callable[[GroupLife], GroupingOperator]:
    schema = pa.schema([ROWS.field(K), *(pa.field(f"a{i}", c.type) for i, c in enumerate(calls))])
    return lambda life: AggregateOperator(AggregateSpec(ROWS, (K,), calls, schema, append, life))


def rank(kind: str, append: bool) -> Callable[[GroupLife], GroupingOperator]:
    order = (Order(S), Order(V)) if kind == "row_number" else (Order(S),)
    return lambda life: RankOperator(RankSpec(kind, (K,), order, 1, 2, False, PLAIN, append, life))


CASES = {
    "aggregate": Case(aggregate(CALLS, False), collect, totals, reads=(K, S, V)),
    "aggregate, append-only": Case(aggregate(CALLS, True), collect, totals, append=True),
    "distinct": Case(aggregate((), False), collect, lambda rows: [(rows[0][K],)], reads=(K,)),
    "top-n": Case(rank("row_number", False), collect, lambda rows: cut(sorted(rows, key=lambda r: (r[S], r[V]))[:2])),
    "top-n, append-only": Case(rank("row_number", True), best, cut, append=True),
    "rank, append-only": Case(rank("rank", True), best_ranks, cut, append=True),
    "normalize": Case(lambda life: NormalizeOperator(ROWS, (K,), life), upsert, list, upserts=True),
    "upsert key": Case(lambda life: UpsertKeyOperator(ROWS, (K,), life), collect, lambda rows: rows[-1:]),
}


class Twin:
    def __init__(self, case: Case, ttl: int | None, arrival: bool) -> None:
        self.case, self.ttl, self.arrival = case, ttl, arrival
        self.bound, self.mark, self.late = ALWAYS, None, 0
        self.groups: dict[Any, Group] = {}

    def there(self, key: Any) -> bool:
        return key in self.groups and self.groups[key].last >= self.bound

    def epoch(self, changes: list[tuple[Row, int]], now: int, mark: int | None) -> Counter[Row]:
        clock = now if self.arrival else self.mark
        self.mark = mark
        if clock is not None and self.ttl is not None:
            self.bound = max(self.bound, clock - self.ttl)
        out: Counter[Row] = Counter()
        for key in dict.fromkeys(row[K] for row, _ in changes):
            mine = [(row, w) for row, w in changes if row[K] == key]
            times = {row: now if self.arrival else micros(row[T]) for row, _ in mine}
            if not self.there(key) and max(times.values()) < self.bound:
                self.late += sum(max(w, 0) for _, w in mine)
                continue
            group = self.groups[key] if self.there(key) else Group()
            out.subtract(self.case.shown(group.rows) if group.rows else [])
            if not group.rows and self.case.reads is not None:
                mine = self.known(mine)
            group.rows, updates = self.case.change(group.rows, mine)
            group.last = max([group.last, *(times[row] for row in updates)])
            out.update(self.case.shown(group.rows) if group.rows else [])
            if group.rows:
                self.groups[key] = group
            else:
                self.groups.pop(key, None)
        return Counter({row: weight for row, weight in out.items() if weight})

    def known(self, changes: list[tuple[Row, int]]) -> list[tuple[Row, int]]:
        """What is left of the first changes of a group: net retractions are of rows that it never had."""
        assert self.case.reads is not None
        kept: dict[Any, list[Row]] = {}
        total: Counter[Any] = Counter()
        for row, weight in changes:
            same = (*(row[c] for c in self.case.reads), None if self.arrival else row[T])
            total[same] += weight
            kept.setdefault(same, []).extend([row] * (weight > 0))
        return [(row, 1) for same, rows in kept.items() for row in rows[: max(total[same], 0)]]

    def random_changes(self, rng: random.Random, now: int, made: int) -> list[tuple[Row, int]]:
        """Rows near the watermark, some late, some dateless; rows that are there, expired ones too, leave."""
        changes: list[tuple[Row, int]] = []
        for number in range(rng.randrange(0, 7)):
            time = START + timedelta(microseconds=now - micros(START) + rng.randrange(-30, 8) * SECOND)
            key = rng.choice([None, "a", "b", "c", "d", "a long key of its own"])
            row = (key, rng.randrange(3), made + number, None if rng.random() < 0.03 else time)
            held = [r for g in self.groups.values() for r in g.rows]
            if not self.case.append and held and rng.random() < 0.4:
                old = rng.choice(held)
                if (old, -1) not in changes:
                    changes.append((old, -1))
                if rng.random() < 0.6:
                    changes.append(((old[K], *row[S:]), 1))
                continue
            changes.append((row, 1))
            if not self.case.append and rng.random() < 0.1:
                changes.append((row, -1))
        if not self.case.upserts:
            rng.shuffle(changes)
        return changes


class Engine:
    """The operator as it runs: saved, loaded, undone, evicted, merged and swept."""

    def __init__(self, case: Case, life: GroupLife, store: ColdStore | None) -> None:
        self.case, self.life, self.store = case, life, store
        self.chains: dict[str, list[pa.RecordBatch]] = {}
        self.make()

    def make(self) -> None:
        self.operator = self.case.make(self.life)
        for state in self.tiered():
            if self.store is not None:
                state.use(self.store)

    def tiered(self) -> list[Tiered]:
        return [s for s in self.operator.states().values() if isinstance(s, Tiered)]

    def epoch(self, changes: list[tuple[Row, int]], turn: Turn) -> Counter[Row]:
        out = self.operator.process([batches_of(ROWS, changes)], turn)
        assert all(b.rows.schema.equals(self.operator.schema) for b in out)
        return net(out)

    def end(self, method: str) -> None:
        for state in self.operator.states().values():
            getattr(state, method)()

    def care_for(self, rng: random.Random) -> None:
        for state in self.tiered():
            if rng.random() < 0.5:
                state.seal(rng.choice([0.3, 1.0]))
            for _ in range(rng.choice([0, 1, 3, 50])):
                state.maintain()

    def restart(self) -> None:
        for name, state in self.operator.states().items():
            self.chains.setdefault(name, []).extend(state.changes(full=name not in self.chains))
        if self.store is not None:
            parts = [s for s in self.operator.states().values() if isinstance(s, Segmented)]
            self.store.collect([segment.number for s in parts for segment in s.cold_segments()])
            for tier in self.tiered():
                tier.close()
        self.make()
        for name, state in self.operator.states().items():
            state.load(self.chains[name])


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    small_group_steps(monkeypatch)
    monkeypatch.setattr("forebay.engine.state.aging._SLICE", 3)


def run(case: Case, seed: int) -> int:
    """One random history; how many rows were late."""
    rng = random.Random(seed)
    arrival, ttl = rng.random() < 0.25, rng.choice([5, 10, 20]) * SECOND
    life = GroupLife(Lifetime(ttl, arrival, "t"), True, None if arrival else T)
    store = ColdStore(None) if seed % 4 else None
    engine, twin = Engine(case, life, store), Twin(case, ttl, arrival)
    now, total = micros(START), Counter[Row]()
    for epoch in range(1, 41):
        now += rng.randrange(0, 7) * SECOND
        changes = twin.random_changes(rng, now, epoch * 100)
        turn = Turn(epoch, now, (now - rng.randrange(0, 3) * SECOND if epoch > 2 else None,))
        if rng.random() < 0.15:
            engine.epoch([(r, w) for r, w in changes if rng.random() < 0.7], turn)
            engine.end("rollback")
        got, want = engine.epoch(changes, turn), twin.epoch(changes, now, turn.watermarks[0])
        engine.end("commit")
        assert got == want, f"seed {seed} epoch {epoch}"
        total.update(got)
        assert min(total.values(), default=0) >= 0, "nothing is retracted that was not there"
        if rng.random() < 0.3:
            there = Counter(r for k, g in twin.groups.items() if twin.there(k) for r in case.shown(g.rows))
            assert shown(engine.operator) in (None, there)
        if rng.random() < 0.7:
            engine.care_for(rng)
        if rng.random() < 0.1:
            engine.restart()
        if rng.random() < 0.05:
            twin.ttl = rng.choice([3, 10, 40, None])
            twin.ttl = twin.ttl and twin.ttl * SECOND
            engine.operator.set_ttl("t", twin.ttl, epoch)
            engine.life = GroupLife(Lifetime(twin.ttl, arrival, "t"), True, life.time)
    if store is not None:
        store.close()
    assert engine.operator.metrics["late_rows"] == twin.late  # type: ignore[attr-defined]
    return twin.late


def shown(operator: GroupingOperator) -> Counter[Any] | None:
    """What a job that comes now is told of the past, if it can be told."""
    contents = getattr(operator, "contents", None)
    return None if contents is None else net(contents())


@pytest.mark.parametrize("name", CASES)
def test_equals_its_twin(name: str) -> None:
    assert sum(run(CASES[name], seed) for seed in range(3))


@pytest.mark.faults
@pytest.mark.parametrize("name", CASES)
def test_equals_its_twin_at_length(name: str) -> None:
    for seed in range(100, 160):
        run(CASES[name], seed)
