"""Joins with a time to live against a slow obvious twin that keeps lists of rows: whatever is sealed, dropped, saved or undone.

The twin is the definition: forget what is older than the bound, say nothing of it, and then change the output by what the
epoch's rows change among the visible ones.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from forebay.engine.batch import Batch
from forebay.engine.operators.base import Turn
from forebay.engine.operators.horizon import ALWAYS, Lifetime
from forebay.engine.operators.join import ArrangeOperator, JoinOperator, JoinSpec
from forebay.engine.operators.lens import Lens
from forebay.engine.state.arrangement import Arrangement
from forebay.engine.state.coldstore import ColdStore
from tests.operators.test_join import KINDS, output_schema
from tests.state.test_tiers import close_chunk

Row = tuple[Any, ...]
START = datetime(2026, 1, 1)
SECOND = 1_000_000
ROWS = pa.schema([("k", pa.int64()), ("v", pa.int32()), ("t", pa.timestamp("ms"))])
STAMPED = ROWS.append(pa.field("came", pa.timestamp("us")))


def micros(time: datetime | None) -> int:
    return 2**63 - 1 if time is None else (time - datetime(1970, 1, 1)) // timedelta(microseconds=1)


@dataclass
class Side:
    """One input: its rows as the twin knows them, and how the engine keeps them."""

    ttl: int | None
    arrival: bool
    unique: bool
    rng: random.Random
    rows: list[tuple[Row, int]] = field(default_factory=list)
    """(row, its time)"""
    marks: set[Row] = field(default_factory=set)
    mark: int | None = None
    made: int = 0

    def arrangement(self, store: ColdStore) -> Arrangement:
        identity = (1,) if self.unique else None
        schema, time = (STAMPED, 3) if self.arrival else (ROWS, 2)
        made = Arrangement(schema, (0,), identity, time=time, stamped=self.arrival)
        made.use(store)
        return made

    def random_changes(self, now: int) -> list[tuple[Row, int]]:
        """Rows near the watermark, some late, some dateless; rows that are there, expired ones too, leave; some at once."""
        rng, changes = self.rng, []
        for _ in range(rng.randrange(0, 6)):
            time = START + timedelta(microseconds=now - micros(START) + rng.randrange(-40, 8) * SECOND)
            self.made += 1
            value = self.made if self.unique else rng.randrange(2)
            row = (rng.choice([None, 1, 2, 3]), value, rng.choice([time, time, time, None]))
            if self.rows and rng.random() < 0.5:
                old = rng.choice(self.rows)[0]
                if Counter(r for r, _ in self.rows)[old] > -sum(w for r, w in changes if r == old and w < 0):
                    changes.append((old, -1))
                    if rng.random() < 0.6:
                        changes.append(((old[0], old[1], old[2] if rng.random() < 0.7 else row[2]), 1))
                    continue
            changes.append((row, 1 if self.unique else rng.choice([1, 1, 2])))
            if rng.random() < 0.15:
                changes.append((row, -changes[-1][1]))
        rng.shuffle(changes)
        return changes

    def take(self, changes: list[tuple[Row, int]], now: int, bound: int) -> tuple[list[Row], list[Row]]:
        """The visible rows before and after."""
        before = [r for r, time in self.rows if time >= bound]
        self.rows += [(row, now if self.arrival else micros(row[2])) for row, w in changes for _ in range(w)]
        for row, weight in changes:
            for _ in range(-weight):
                same = [entry for entry in self.rows if entry[0] == row]
                self.rows.remove(max(same, key=lambda entry: entry[1]))
        return before, [r for r, time in self.rows if time >= bound]


class Twin:
    """The join of two sides with a TTL, the obvious way."""

    def __init__(self, kind: str, residual: bool, sides: list[Side]) -> None:
        self.kind, self.residual, self.sides = kind, residual, sides
        self.bounds = [ALWAYS, ALWAYS]

    def on(self, left: Row, right: Row) -> bool:
        return left[0] is not None and left[0] == right[0] and (not self.residual or left[1] <= right[1])

    def epoch(self, changes: list[list[tuple[Row, int]]], now: int) -> Counter[Row]:
        clocks = [now if s.arrival else s.mark for s in self.sides]
        if None not in clocks:
            for i, side in enumerate(self.sides):
                if side.ttl is not None:
                    self.bounds[i] = max(self.bounds[i], min(c for c in clocks if c is not None) - side.ttl)
        left, right = (s.take(c, now, b) for s, c, b in zip(self.sides, changes, self.bounds))
        out: Counter[Row] = Counter()
        if self.kind in ("inner", "left", "right", "full"):
            for sign, (ls, rs) in ((-1, (left[0], right[0])), (1, (left[1], right[1]))):
                for pair in [l + r for l in ls for r in rs if self.on(l, r)]:
                    out[pair] += sign
        if self.kind not in ("inner", "right", "right semi", "right anti"):
            self.presence(out, self.sides[0], left, right, lambda l, r: self.on(l, r), True)
        if self.kind in ("right", "full", "right semi", "right anti"):
            self.presence(out, self.sides[1], right, left, lambda r, l: self.on(l, r), False)
        return Counter({row: weight for row, weight in out.items() if weight})

    def presence(self, out: Counter[Row], side: Side, mine: Any, theirs: Any, on: Any, is_left: bool) -> None:
        nulls = (None,) * 3
        for row in {*mine[0], *mine[1]}:
            was_there, is_there = mine[0].count(row), mine[1].count(row)
            matched = [any(on(row, other) for other in others) for others in theirs]
            if was_there == is_there and matched[0] == matched[1]:
                continue
            for weight, found in ((-was_there, row in side.marks), (is_there, matched[1])):
                if self.kind == "left mark":
                    out[(*row, found)] += weight
                elif self.kind.endswith("semi"):
                    out[row] += weight * found
                elif self.kind.endswith("anti"):
                    out[row] += weight * (not found)
                else:
                    out[row + nulls if is_left else nulls + row] += weight * (not found)
            side.marks.discard(row)
            if is_there and matched[1]:
                side.marks.add(row)


def batches(changes: list[tuple[Row, int]]) -> list[Batch]:
    if not changes:
        return []
    columns = [pa.array([row[i] for row, _ in changes], f.type) for i, f in enumerate(ROWS)]
    return [Batch(pa.RecordBatch.from_arrays(columns, schema=ROWS), np.array([w for _, w in changes], np.int64))]


def net(out: list[Batch]) -> Counter[Row]:
    total: Counter[Row] = Counter()
    for batch in out:
        for row, weight in zip(zip(*(c.to_pylist() for c in batch.rows.columns)), batch.weight_array().tolist()):
            total[row] += weight
    return Counter({row: weight for row, weight in total.items() if weight})


_without_stamp = Lens((0, 1, 2), ROWS, lambda rows: (rows, None), filters=False)


class Engine:
    """The join as it runs: two arrange operators and the join, which may be saved, loaded, undone, sealed and merged."""

    def __init__(self, kind: str, residual: bool, sides: list[Side], store: ColdStore) -> None:
        self.sides, self.store = sides, store
        store.meanwhile = self.ahead

        def condition(rows: pa.RecordBatch) -> pa.BooleanArray:
            return pc.less_equal(rows.column(1), rows.column(4))

        lives = [Lifetime(s.ttl, s.arrival) for s in sides]
        schema = output_schema(kind, ROWS, ROWS)
        self.spec = JoinSpec(
            kind,
            (0,),
            (0,),
            schema,
            residual=condition if residual else None,
            left_lens=_without_stamp if sides[0].arrival else None,
            right_lens=_without_stamp if sides[1].arrival else None,
            lives=(lives[0], lives[1]),
        )
        self.chains: dict[str, list[pa.RecordBatch]] = {}
        self.foresaw = 0
        self.make()

    def make(self) -> None:
        self.inputs = [ArrangeOperator(s.arrangement(self.store)) for s in self.sides]
        self.join = JoinOperator(self.spec, self.inputs[0].arrangement, self.inputs[1].arrangement)
        for state in self.join.states().values():
            if isinstance(state, Arrangement):
                state.use(self.store)

    def states(self) -> dict[str, Any]:
        inputs = {f"{i}": side.arrangement for i, side in enumerate(self.inputs)}
        return {**inputs, **self.join.states()}

    def epoch(self, changes: list[list[tuple[Row, int]]], turn: Turn) -> Counter[Row]:
        given = [batches(c) for c in changes]
        for number, side in enumerate(self.inputs):
            if side.passes_on and given[number]:
                self.join.foresee(number, given[number], turn.epoch)
                self.foresaw += bool(self.join._foreseen)
        deltas = [side.process([each], turn) for side, each in zip(self.inputs, given)]
        out = self.join.process(deltas, turn)
        assert all(b.rows.schema.equals(self.join.schema) for b in out)
        return net(out)

    def end(self, method: str) -> None:
        for state in self.states().values():
            getattr(state, method)()

    def care_for(self, rng: random.Random) -> None:
        for state in self.states().values():
            if not isinstance(state, Arrangement) or rng.random() < 0.5:
                continue
            if rng.random() < 0.5:
                close_chunk(state)
                state.seal(1.0)
            for _ in range(rng.choice([1, 1, 50])):
                state.maintain()

    def ahead(self) -> None:
        """While blocks come from the disk sealing and merging go on."""
        for state in self.states().values():
            if isinstance(state, Arrangement):
                state.ahead()

    def restart(self) -> None:
        for name, state in self.states().items():
            self.chains.setdefault(name, []).extend(state.changes(full=name not in self.chains))
        kept = [
            s.number
            for state in self.states().values()
            if isinstance(state, Arrangement)
            for s in state.cold_segments()
        ]
        for state in self.states().values():
            if isinstance(state, Arrangement):
                state.close()
        self.store.collect(kept)
        self.make()
        for name, state in self.states().items():
            state.load(self.chains[name])


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sealing", "cold"):
        monkeypatch.setattr(f"forebay.engine.state.{module}._SLICE", 3)
    monkeypatch.setattr("forebay.engine.state.cold.FAN", 2)
    monkeypatch.setattr("forebay.engine.state.cold.DEAR", 0)
    monkeypatch.setattr("forebay.engine.state.coldstore._FEW", 0)
    monkeypatch.setattr("forebay.engine.operators.pieces.FEW", 0)
    monkeypatch.setattr("forebay.engine.state.arrangement.Arrangement.at_once", 1)


def run(
    kind: str, seed: int, ttls: tuple[int | None, int | None], *, residual: bool = False, cold: bool = True
) -> Engine:
    """One random history; the engine at its end."""
    rng = random.Random(seed)
    arrival = (rng.random() < 0.3, rng.random() < 0.3)
    sides = [Side(ttl, came, rng.random() < 0.4, rng) for ttl, came in zip(ttls, arrival)]
    store = ColdStore(None)
    engine, twin = Engine(kind, residual, sides, store), Twin(kind, residual, sides)
    now, total = micros(START), Counter[Row]()
    for epoch in range(1, 26):
        now += rng.randrange(0, 8) * SECOND
        changes = [s.random_changes(now) for s in sides]
        marks = tuple(now - rng.randrange(0, 3) * SECOND if epoch > 2 else None for _ in sides)
        turn = Turn(epoch, now, marks)
        if rng.random() < 0.15:
            engine.epoch(changes, turn)
            engine.end("rollback")
        got = engine.epoch(changes, turn)
        engine.end("commit")
        assert got == twin.epoch(changes, now), f"{kind} seed {seed} epoch {epoch}"
        total.update(got)
        assert min(total.values(), default=0) >= 0, "nothing is retracted that was not there"
        for side, mark in zip(sides, marks):
            side.mark = mark
        if cold:
            engine.care_for(rng)
        if rng.random() < 0.1:
            engine.restart()
    store.close()
    return engine


TTLS = ((20 * SECOND, 5 * SECOND), (None, 10 * SECOND), (10 * SECOND, None), (None, None))


@pytest.mark.parametrize("kind", KINDS)
def test_equals_its_twin(kind: str) -> None:
    for number, ttls in enumerate(TTLS):
        run(kind, 3 * KINDS.index(kind) + number, ttls, residual=number == 2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_foreseen_is_asked_for_early(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.engine.state.arrangement.Arrangement.at_once", 1000)
    assert sum(run(kind, seed, (None, None), residual=seed == 3).foresaw for seed in range(4)) > 5


def test_rows_that_come_late_are_counted() -> None:
    assert sum(run("inner", seed, TTLS[0]).join.metrics["late_rows"] for seed in range(3))


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_equals_its_twin_at_length(kind: str) -> None:
    for seed in range(100, 130):
        for ttls in TTLS:
            at_once = 1 if seed % 2 else 1000
            with mock.patch.object(Arrangement, "at_once", at_once):
                run(kind, seed, ttls, residual=seed % 4 == 3)
