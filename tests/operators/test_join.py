"""Every join kind against a naive join of the contents, at every epoch of random changelogs."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from forebay.engine.batch import Batch
from forebay.engine.errors import UnsupportedError
from forebay.engine.operators.base import Turn
from forebay.engine.operators.join import ArrangeOperator, JoinOperator, JoinSpec
from forebay.engine.operators.lens import Lens
from forebay.engine.state.arrangement import Arrangement

KINDS = ["inner", "left", "right", "full", "left semi", "left anti", "right semi", "right anti", "left mark"]
Row = tuple[Any, ...]


def plain(value: Any) -> Any:
    """One NaN, one zero: rows become comparable."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    return value


def naive(
    kind: str, left: Counter[Row], right: Counter[Row], on: Callable[[Row, Row], bool], width: int
) -> Counter[Row]:
    """The join of two multisets by nested loops."""
    out: Counter[Row] = Counter()
    nulls = (None,) * width
    if kind in ("inner", "left", "right", "full"):
        for l, lw in left.items():
            for r, rw in right.items():
                if on(l, r):
                    out[l + r] += lw * rw
    for l, lw in left.items():
        found = any(on(l, r) for r in right)
        if kind in ("left", "full") and not found:
            out[l + nulls] += lw
        if (kind == "left semi" and found) or (kind == "left anti" and not found):
            out[l] += lw
        if kind == "left mark":
            out[(*l, found)] += lw
    for r, rw in right.items():
        found = any(on(l, r) for l in left)
        if kind in ("right", "full") and not found:
            out[nulls + r] += rw
        if (kind == "right semi" and found) or (kind == "right anti" and not found):
            out[r] += rw
    return out


def output_schema(kind: str, left: pa.Schema, right: pa.Schema) -> pa.Schema:
    if kind in ("left semi", "left anti"):
        return left
    if kind in ("right semi", "right anti"):
        return right
    if kind == "left mark":
        return left.append(pa.field("mark", pa.bool_()))
    return pa.schema([*left, *(f.with_name("r_" + f.name) for f in right)])


def batch_of(changes: list[tuple[Row, int]], schema: pa.Schema) -> list[Batch]:
    if not changes:
        return []
    columns = [pa.array([row[i] for row, _ in changes], f.type) for i, f in enumerate(schema)]
    return [Batch(pa.RecordBatch.from_arrays(columns, schema=schema), np.array([w for _, w in changes], np.int64))]


def apply(state: Counter[Row], batches: list[Batch]) -> None:
    for batch in batches:
        rows = zip(*(c.to_pylist() for c in batch.rows.columns))
        for row, weight in zip(rows, batch.weight_array().tolist()):
            state[tuple(map(plain, row))] += weight
    for row in [r for r, w in state.items() if w == 0]:
        del state[row]


class World:
    """Random changes of one relation whose contents are known."""

    def __init__(self, rng: random.Random, make: Callable[[random.Random], Row], schema: pa.Schema) -> None:
        self.rng, self.make, self.schema = rng, make, schema
        self.rows: Counter[Row] = Counter()
        self.raw: list[Row] = []

    def step(self) -> list[Batch]:
        changes: list[tuple[Row, int]] = []
        for _ in range(self.rng.randrange(0, 8)):
            if self.raw and self.rng.random() < 0.45:
                row = self.raw.pop(self.rng.randrange(len(self.raw)))
                changes.append((row, -1))
                if self.rng.random() < 0.4:
                    changes.append((again := (row[0], *self.make(self.rng)[1:]), 1))
                    self.raw.append(again)
            else:
                row, count = self.make(self.rng), self.rng.choice([1, 1, 1, 2])
                changes.append((row, count))
                self.raw += [row] * count
                if self.rng.random() < 0.2:
                    self.raw.remove(row)
                    changes.append((row, -1))
        self.rng.shuffle(changes)
        batches = batch_of(changes, self.schema)
        apply(self.rows, batches)
        return batches


INT = pa.schema([("k", pa.int64()), ("v", pa.int32())])
TEXT = pa.schema([("k", pa.string()), ("v", pa.int32())])
FLOAT = pa.schema([("k", pa.float64()), ("v", pa.int32())])
WIDE = pa.schema([("k", pa.decimal128(12, 2)), ("v", pa.int32()), ("s", pa.string())])

MAKERS: dict[str, tuple[pa.Schema, Callable[[random.Random], Row], tuple[int, ...]]] = {
    "int": (INT, lambda r: (r.choice([None, 1, 2, 3, 4]), r.randrange(3)), (0,)),
    "text": (TEXT, lambda r: (r.choice([None, "", "a", "b" * 40]), r.randrange(3)), (0,)),
    "float": (FLOAT, lambda r: (r.choice([None, 0.0, -0.0, math.nan, 1.5]), r.randrange(3)), (0,)),
    "wide": (
        WIDE,
        lambda r: (r.choice([None, Decimal("1.50"), Decimal("-2.00")]), r.randrange(2), r.choice([None, "x", "y"])),
        (0, 2),
    ),
    "cross": (INT, lambda r: (r.randrange(3), r.randrange(3)), ()),
}


def same_key(keys: tuple[int, ...], nulls: bool) -> Callable[[Row, Row], bool]:
    return lambda l, r: all((nulls or l[k] is not None) and l[k] == r[k] for k in keys)


def lens(schema: pa.Schema) -> Lens:
    """A job's filter and projection: v <> 1, and the columns the other way round."""

    def show(rows: pa.RecordBatch) -> tuple[pa.RecordBatch, np.ndarray[Any, Any] | None]:
        return rows.select([1, 0]), pc.not_equal(rows.column(1), 1).to_numpy(zero_copy_only=False)

    return Lens((0, 1), pa.schema([schema[1], schema[0]]), show, filters=True)


def through_lens(rows: Counter[Row]) -> Counter[Row]:
    return Counter({(row[1], row[0]): weight for row, weight in rows.items() if row[1] != 1})


def run_with_lens(kind: str, maker: str, seed: int, lenses: tuple[bool, bool], residual: bool) -> None:
    rng = random.Random(seed)
    schema, make, keys = MAKERS[maker]
    shown = [pa.schema([schema[1], schema[0]]) if each else schema for each in lenses]
    worlds = [World(rng, make, schema), World(rng, make, schema)]
    key, value = [1 if each else 0 for each in lenses], [0 if each else 1 for each in lenses]

    def condition(rows: pa.RecordBatch) -> pa.BooleanArray:
        return pc.less_equal(rows.column(value[0]), rows.column(2 + value[1]))

    def on(l: Row, r: Row) -> bool:
        same = l[key[0]] is not None and l[key[0]] == r[key[1]]
        return same and (not residual or l[value[0]] <= r[value[1]])

    spec = JoinSpec(
        kind,
        keys,
        keys,
        output_schema(kind, *shown),
        residual=condition if residual else None,
        left_lens=lens(schema) if lenses[0] else None,
        right_lens=lens(schema) if lenses[1] else None,
    )
    sides = [ArrangeOperator(Arrangement(schema, keys)) for _ in worlds]
    join = JoinOperator(spec, sides[0].arrangement, sides[1].arrangement)
    got: Counter[Row] = Counter()
    for epoch in range(1, 30):
        deltas = [w.step() for w in worlds]
        for side, delta in zip(sides, deltas):
            side.process([delta], Turn(epoch, 0, (None,)))
        apply(got, join.process(deltas, Turn(epoch, 0, (None, None))))
        for side in sides:
            side.arrangement.commit()
        want = [through_lens(w.rows) if each else w.rows for w, each in zip(worlds, lenses)]
        assert got == naive(kind, want[0], want[1], on, 2), f"epoch {epoch}"


@pytest.mark.parametrize("kind", KINDS)
def test_lenses_filter_and_project_after_the_probe(kind: str) -> None:
    run_with_lens(kind, "int", 21, (True, True), False)
    run_with_lens(kind, "text", 22, (True, False), True)
    run_with_lens(kind, "int", 23, (False, True), False)


def run(
    kind: str, maker: str, seed: int, *, residual: bool = False, nulls: bool = False, restart: bool = False
) -> None:
    rng = random.Random(seed)
    schema, make, keys = MAKERS[maker]
    worlds = [World(rng, make, schema), World(rng, make, schema)]
    width = len(schema)

    def condition(rows: pa.RecordBatch) -> pa.BooleanArray:
        return pc.less_equal(rows.column(1), rows.column(width + 1))

    spec = JoinSpec(
        kind,
        keys,
        keys,
        output_schema(kind, schema, schema),
        null_equals_null=nulls,
        residual=condition if residual else None,
    )
    sides = [ArrangeOperator(Arrangement(schema, keys)) for _ in worlds]
    join = JoinOperator(spec, sides[0].arrangement, sides[1].arrangement)
    match = same_key(keys, nulls)
    on = (lambda l, r: match(l, r) and l[1] <= r[1]) if residual else match
    got: Counter[Row] = Counter()
    chains: list[list[pa.RecordBatch]] = [[], []]
    for epoch in range(1, 30):
        deltas = [w.step() for w in worlds]
        turn = Turn(epoch, 0, (None, None))
        if rng.random() < 0.15:
            for side, delta in zip(sides, deltas):
                side.process([delta], turn)
            join.process(deltas, turn)
            for side in sides:
                side.arrangement.rollback()
        for side, delta in zip(sides, deltas):
            side.process([delta], turn)
        apply(got, join.process(deltas, turn))
        for side in sides:
            side.arrangement.commit()
        assert got == naive(kind, worlds[0].rows, worlds[1].rows, on, width), f"epoch {epoch}"
        if restart and rng.random() < 0.3:
            for i, side in enumerate(sides):
                chains[i] += side.arrangement.changes(full=not chains[i])
            if rng.random() < 0.5:
                sides = [ArrangeOperator(Arrangement(schema, keys)) for _ in worlds]
                for side, chain in zip(sides, chains):
                    side.arrangement.load(chain)
                join = JoinOperator(spec, sides[0].arrangement, sides[1].arrangement)
            for side, world in zip(sides, worlds):
                contents: Counter[Row] = Counter()
                apply(contents, list(side.contents()))
                assert contents == world.rows
    assert got or kind.endswith("anti")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maker", list(MAKERS))
def test_equals_the_naive_join(kind: str, maker: str) -> None:
    for seed in range(2):
        run(kind, maker, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_residual_condition(kind: str) -> None:
    for maker in ("int", "cross", "text"):
        run(kind, maker, 5, residual=True)


@pytest.mark.parametrize("kind", KINDS)
def test_null_equals_null(kind: str) -> None:
    for maker in ("int", "wide"):
        run(kind, maker, 7, nulls=True)


@pytest.mark.parametrize("maker", list(MAKERS))
def test_restarts_keep_the_state(maker: str) -> None:
    for seed in range(4):
        run("full", maker, seed, restart=True)


def test_equal_hashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(rows: pa.RecordBatch, columns: Any) -> np.ndarray[Any, Any]:
        return np.full(rows.num_rows, 42, np.uint64)

    for module in ("arrangement", "hot"):
        monkeypatch.setattr(f"forebay.engine.state.{module}.hash_rows", flat)
    monkeypatch.setattr(Arrangement, "_must_verify", lambda self, keys, columns: bool(self.key))
    for kind in KINDS:
        run(kind, "text", 11)
        run(kind, "int", 12, residual=True)


@pytest.mark.parametrize("kind", ["inner", "left", "left semi", "full"])
def test_self_join(kind: str) -> None:
    rng = random.Random(3)
    schema, make, keys = MAKERS["int"]
    world = World(rng, make, schema)
    side = ArrangeOperator(Arrangement(schema, keys))
    join = JoinOperator(
        JoinSpec(kind, keys, keys, output_schema(kind, schema, schema)), side.arrangement, side.arrangement
    )
    got: Counter[Row] = Counter()
    for epoch in range(1, 60):
        delta = world.step()
        turn = Turn(epoch, 0, (None, None))
        side.process([delta], turn)
        apply(got, join.process([delta, delta], turn))
        side.arrangement.commit()
        assert got == naive(kind, world.rows, world.rows, same_key(keys, False), 2)


def test_delete_left_and_insert_right_of_one_key_in_one_epoch() -> None:
    left, right = (ArrangeOperator(Arrangement(INT, (0,))) for _ in range(2))
    join = JoinOperator(
        JoinSpec("left", (0,), (0,), output_schema("left", INT, INT)), left.arrangement, right.arrangement
    )
    got: Counter[Row] = Counter()
    for epoch, (ls, rs) in enumerate([([((1, 10), 1)], []), ([((1, 10), -1)], [((1, 20), 1)])], 1):
        deltas = [batch_of(ls, INT), batch_of(rs, INT)]
        for side, delta in zip((left, right), deltas):
            side.process([delta], Turn(epoch, 0, (None,)))
        apply(got, join.process(deltas, Turn(epoch, 0, (None, None))))
        for side in (left, right):
            side.arrangement.commit()
    assert got == Counter()


def test_a_row_born_and_dead_in_one_epoch_leaves_no_trace() -> None:
    left, right = (ArrangeOperator(Arrangement(INT, (0,))) for _ in range(2))
    join = JoinOperator(
        JoinSpec("full", (0,), (0,), output_schema("full", INT, INT)), left.arrangement, right.arrangement
    )
    deltas = [batch_of([((1, 10), 1), ((1, 10), -1)], INT), batch_of([((1, 20), 1)], INT)]
    for side, delta in zip((left, right), deltas):
        side.process([delta], Turn(1, 0, (None,)))
    got: Counter[Row] = Counter()
    apply(got, join.process(deltas, Turn(1, 0, (None, None))))
    assert got == Counter({(None, None, 1, 20): 1})


@pytest.mark.parametrize("filtered", [False, True])
def test_not_in(filtered: bool) -> None:
    """`filtered`: the right side through a lens that drops the rows with v = 1, NULL keys among them."""
    for seed in range(6):
        rng = random.Random(seed)
        schema, make, keys = MAKERS["int"]
        worlds = [
            World(rng, make, schema),
            World(rng, lambda r: (r.choice([None, 1, 2, 2, 3]), r.randrange(2) if filtered else 0), schema),
        ]
        sides = [ArrangeOperator(Arrangement(schema, keys)) for _ in worlds]
        spec = JoinSpec("left anti", keys, keys, schema, null_aware=True, right_lens=lens(schema) if filtered else None)
        join = JoinOperator(spec, *(s.arrangement for s in sides))
        got: Counter[Row] = Counter()
        for epoch in range(1, 60):
            deltas = [w.step() for w in worlds]
            turn = Turn(epoch, 0, (None, None))
            for side, delta in zip(sides, deltas):
                side.process([delta], turn)
            apply(got, join.process(deltas, turn))
            for side in sides:
                side.arrangement.commit()
            right = {r[0] for r in worlds[1].rows if not (filtered and r[1] == 1)}
            want = Counter(
                {
                    l: w
                    for l, w in worlds[0].rows.items()
                    if not right or (None not in right and l[0] is not None and l[0] not in right)
                }
            )
            assert got == want


def test_correlated_not_in_is_refused() -> None:
    """Its NULLs count within the rows that correlate, which one index of all keys cannot tell."""
    sides = [Arrangement(WIDE, (0, 2)) for _ in range(2)]
    with pytest.raises(UnsupportedError, match="correlated"):
        JoinOperator(JoinSpec("left anti", (0, 2), (0, 2), WIDE, null_aware=True), *sides)


def test_a_late_join_sees_the_past_as_new() -> None:
    rng = random.Random(1)
    schema, make, keys = MAKERS["int"]
    worlds = [World(rng, make, schema), World(rng, make, schema)]
    sides = [ArrangeOperator(Arrangement(schema, keys)) for _ in worlds]
    for epoch in range(1, 10):
        for side, world in zip(sides, worlds):
            side.process([world.step()], Turn(epoch, 0, (None,)))
            side.arrangement.commit()
    join = JoinOperator(
        JoinSpec("full", keys, keys, output_schema("full", schema, schema)), *(s.arrangement for s in sides)
    )
    got: Counter[Row] = Counter()
    past = [list(s.contents()) for s in sides]
    apply(got, join.process(past, Turn(9, 0, (None, None), initial=True)))
    assert got == naive("full", worlds[0].rows, worlds[1].rows, same_key(keys, False), 2)


def test_a_held_epoch_is_replayed_exactly() -> None:
    """A reader that fell behind reads the arrangements as they were, while the writer went on."""
    rng = random.Random(2)
    schema, make, keys = MAKERS["int"]
    worlds = [World(rng, make, schema), World(rng, make, schema)]
    sides = [ArrangeOperator(Arrangement(schema, keys)) for _ in worlds]
    spec = JoinSpec("full", keys, keys, output_schema("full", schema, schema))
    join = JoinOperator(spec, *(s.arrangement for s in sides))
    got: Counter[Row] = Counter()
    missed = []
    for epoch in range(1, 30):
        deltas = [w.step() for w in worlds]
        if epoch == 5:
            for side in sides:
                side.arrangement.hold(epoch - 1)
        for side, delta in zip(sides, deltas):
            side.process([delta], Turn(epoch, 0, (None,)))
        if epoch < 5:
            apply(got, join.process(deltas, Turn(epoch, 0, (None, None))))
        else:
            missed.append((epoch, deltas))
        for side in sides:
            side.arrangement.commit()
    for epoch, deltas in missed:
        apply(got, join.process(deltas, Turn(epoch, 0, (None, None))))
    assert got == naive("full", worlds[0].rows, worlds[1].rows, same_key(keys, False), 2)


def test_an_unmatched_retraction_is_dropped_and_counted() -> None:
    arrangement = Arrangement(INT, (0,))
    arrangement.update(batch_of([((1, 1), 2), ((2, 2), -1), ((1, 1), -3)], INT), 1)
    arrangement.commit()
    assert arrangement.unmatched == 2
    assert arrangement.rows() == 0
    assert list(arrangement.contents()) == []


def test_compaction_keeps_the_contents() -> None:
    arrangement = Arrangement(INT, (0,), (0,))
    n = 70_000
    rows = pa.RecordBatch.from_arrays([pa.array(np.arange(n)), pa.array(np.zeros(n, np.int32))], schema=INT)
    arrangement.update([Batch(rows)], 1)
    arrangement.commit()
    chain = arrangement.changes(full=True)
    before = arrangement.nbytes()
    arrangement.update([Batch(rows.slice(10), np.full(n - 10, -1))], 2)
    arrangement.commit()
    arrangement.update([Batch(rows.slice(0, 1), np.array([-1]))], 3)
    arrangement.commit()
    assert arrangement.rows() == 9
    assert arrangement.nbytes() < before / 2
    chain += arrangement.changes(full=False)
    restored = Arrangement(INT, (0,), (0,))
    restored.load(chain)
    assert sorted(r for b in restored.contents() for r in b.rows.column(0).to_pylist()) == list(range(1, 10))
