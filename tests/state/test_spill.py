"""Keyed state that leaves memory and comes back: operators whose groups are evicted at any time against twins that keep all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.engine.batch import Batch
from forebay.engine.errors import StateError
from forebay.engine.operators.accumulators import CallSpec
from forebay.engine.operators.aggregate import AggregateOperator, AggregateSpec
from forebay.engine.operators.base import MAX_WATERMARK, Operator
from forebay.engine.operators.normalize import LastRows, NormalizeOperator, UpsertKeyOperator
from forebay.engine.operators.rank import RankOperator, RankSpec
from forebay.engine.operators.window import WindowAggregateOperator
from forebay.engine.state import Segmented, Tiered
from forebay.engine.state.coldstore import ColdStore
from forebay.engine.state.groups import GroupTable
from forebay.engine.state.keys import KeyTable
from forebay.engine.state.order import Order
from tests.operators.changelogs import batch_of, batches_of, histories, history_of, net, turn
from tests.state.steps import small_group_steps

SCHEMA = pa.schema(
    [("k", pa.string()), ("d", pa.decimal128(10, 2)), ("f", pa.float64()), ("v", pa.int64()), ("s", pa.string())]
)
K, D, F, V, S = range(5)
DAY_1 = 1_767_225_600_000_000
"""2026-01-01, in microseconds."""


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    small_group_steps(monkeypatch)


def aggregate(append_only: bool) -> Operator:
    calls = (
        CallSpec("count", (), pa.int64()),
        CallSpec("sum", (D,), pa.decimal128(38, 2)),
        CallSpec("min", (S,), pa.string()),
        CallSpec("max", (F,), pa.float64()),
        CallSpec("count", (V,), pa.int64(), distinct=True),
        CallSpec("sum", (V,), pa.int64(), distinct=True),
        CallSpec("array_agg", (V,), pa.list_(pa.int64()), order=(Order(S), Order(V))),
    )
    schema = pa.schema([SCHEMA.field(F), SCHEMA.field(K), *(pa.field(f"a{i}", c.type) for i, c in enumerate(calls))])
    return AggregateOperator(AggregateSpec(SCHEMA, (F, K), calls, schema, append_only))


def rank(kind: str, append_only: bool) -> Operator:
    order = (Order(V, False), Order(S))
    return RankOperator(RankSpec(kind, (K,), order, 1, 2, True, SCHEMA.append(pa.field("r", pa.int64())), append_only))


def window() -> Operator:
    """By window end, which is a key."""
    calls = (
        CallSpec("count", (), pa.int64()),
        CallSpec("count", (1,), pa.int64(), distinct=True),
        CallSpec("max", (1,), pa.int64()),
    )
    schema = pa.schema([WINDOWED.field(2), WINDOWED.field(0), *(pa.field(f"a{i}", pa.int64()) for i in range(3))])
    return WindowAggregateOperator(AggregateSpec(WINDOWED, (2, 0), calls, schema), 2)


WINDOWED = pa.schema([("k", pa.string()), ("v", pa.int64()), ("window_end", pa.timestamp("ms"))])
OPERATORS: dict[str, tuple[bool, Callable[[], Operator]]] = {
    "distinct": (False, lambda: AggregateOperator(AggregateSpec(SCHEMA, (K, F), (), SCHEMA_KF))),
    "aggregate": (False, lambda: aggregate(False)),
    "aggregate, append-only": (True, lambda: aggregate(True)),
    "top-n": (False, lambda: rank("row_number", False)),
    "top-n, append-only": (True, lambda: rank("row_number", True)),
    "rank, append-only": (True, lambda: rank("rank", True)),
    "normalize": (False, lambda: NormalizeOperator(SCHEMA, (F, K))),
    "upsert key": (False, lambda: UpsertKeyOperator(SCHEMA, (K, F))),
    "window": (False, window),
}
SCHEMA_KF = pa.schema([SCHEMA.field(K), SCHEMA.field(F)])


def tiered(operator: Operator) -> list[Tiered]:
    return [s for s in operator.states().values() if isinstance(s, Tiered)]


def use(operator: Operator, store: ColdStore) -> Operator:
    for state in tiered(operator):
        state.use(store)
    return operator


def care_for(operator: Operator, random: Random) -> None:
    """What happens between two epochs."""
    for state in tiered(operator):
        match random.randrange(5):
            case 0:
                state.seal(random.choice([0.3, 1.0]))
            case 1:
                state.seal(1.0)
                state.finish_sealing()
            case 2:
                state.maintain()
            case 3:
                while state.maintain():
                    pass


def segments(operator: Operator) -> list[int]:
    states = [s for s in operator.states().values() if isinstance(s, Segmented)]
    return [segment.number for state in states for segment in state.cold_segments()]


def each(operator: Operator, action: str) -> None:
    for state in operator.states().values():
        getattr(state, action)()


@pytest.mark.parametrize("name", OPERATORS)
def test_evicting_changes_no_output(name: str) -> None:
    append_only, make = OPERATORS[name]
    schema = WINDOWED if name == "window" else SCHEMA
    seen = 0

    @settings(max_examples=12, deadline=None)
    @given(history=histories(schema, append_only, 25), seed=st.integers(0, 2**32))
    def follows(history: list[Any], seed: int) -> None:
        nonlocal seen
        random, store = Random(seed), ColdStore(None)
        hot, cold = make(), use(make(), store)
        saved: dict[str, list[pa.RecordBatch]] = {}
        watermark = DAY_1
        for epoch in history * 3:
            watermark += random.randrange(2) * random.randrange(40) * 10**6
            if random.random() < 0.3:
                cold.process([batches_of(schema, random.choice(history))], turn(watermark=watermark))
                each(cold, "rollback")
                care_for(cold, random)
            batches, now = batches_of(schema, epoch), turn(watermark=watermark)
            assert net(cold.process([batches], now)) == net(hot.process([batches], now))
            each(cold, "commit")
            each(hot, "commit")
            care_for(cold, random)
            assert {n: s.rows() for n, s in cold.states().items()} == {n: s.rows() for n, s in hot.states().items()}
            seen += len(segments(cold))
            if random.random() < 0.6:
                full = not saved or random.random() < 0.2
                changed = {n: s.changes(full) for n, s in cold.states().items()}
                saved = {n: ([] if full else saved[n]) + changed[n] for n in changed}
                store.collect(segments(cold))
                if random.random() < 0.5:
                    for state in tiered(cold):
                        state.close()
                    cold = use(make(), store)
                    for n, state in cold.states().items():
                        state.load(saved[n])
        store.close()

    follows()
    assert seen > 50


@settings(max_examples=30, deadline=None)
@given(
    epochs=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abcdefgh"), st.one_of(st.none(), st.integers(0, 99)), max_size=5),
            st.sampled_from(["commit", "commit", "rollback"]),
            st.sampled_from(["", "seal", "half", "step", "settle"]),
        ),
        max_size=12,
    )
)
def test_last_rows_follow_a_dictionary(epochs: list[tuple[dict[str, int | None], str, str]]) -> None:
    schema = pa.schema([("k", pa.string()), ("v", pa.int64())])
    store, model = ColdStore(None), dict[str, int]()
    operator = use(NormalizeOperator(schema, [0]), store)
    state = operator.rows
    for changes, end, care in epochs:
        rows = [((k, v), 1 if v is not None else -1) for k, v in changes.items()]
        operator.process([[batch_of(schema, rows)] if rows else []], turn())
        each(operator, end)
        if end == "commit":
            model.update({k: v for k, v in changes.items() if v is not None})
            model = {k: v for k, v in model.items() if changes.get(k, 0) is not None}
        if care in ("seal", "half"):
            state.seal(1.0 if care == "seal" else 0.5)
        while care == "settle" and state.maintain():
            pass
        state.maintain()
        contents = [tuple(row.values()) for batch in state.contents() for row in batch.to_pylist()]
        assert sorted(contents) == sorted(model.items())
        assert state.rows() == len(model)
    store.close()


def test_keys_of_one_hash_are_told_apart(store: ColdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(batch: pa.RecordBatch, columns: Any) -> Any:
        return np.array([len(t) % 2 for t in batch.column(0).to_pylist()], np.uint64)

    monkeypatch.setattr("forebay.engine.state.keys.hash_rows", bad)
    monkeypatch.setattr("forebay.engine.state.spill.hash_rows", bad)
    schema, model, random = pa.schema([("k", pa.string())]), Counter[str](), Random(1)
    table = GroupTable(KeyTable(schema), 1)
    table.use(store)
    for _ in range(60):
        keys = [random.choice("abcdefgh") * random.randrange(1, 3) for _ in range(3)]
        ids = table.intern(pa.RecordBatch.from_pydict({"k": keys}, schema=schema))
        opened = table.open(ids)
        np.add.at(table.words[:, 0], ids, 1)
        model.update(keys)
        assert table.read(ids)[:, 0].tolist() == [model[k] for k in keys]
        assert opened.ids.shape[0] == len(set(keys))
        table.commit()
        if random.random() < 0.5:
            table.seal(0.5)
        table.maintain()
        assert table.rows() == len(model)


def test_memory_goes_to_other_groups(store: ColdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and hash slots of evicted groups are used again: memory follows the hot ones."""
    schema = pa.schema([("k", pa.int64())])
    monkeypatch.setattr("forebay.engine.state.eviction._STEP", 1 << 20)
    table = GroupTable(KeyTable(schema), 4)
    table.use(store)
    sizes = []
    for number in range(8):
        keys = np.arange(number * 10_000, (number + 1) * 10_000)
        table.open(table.intern(pa.RecordBatch.from_arrays([pa.array(keys)], schema=schema)))
        table.commit()
        busy = table.nbytes() - table.idle_bytes()
        table.seal(1.0)
        table.finish_sealing()
        assert table.nbytes() - table.idle_bytes() < busy / 3
        assert table.on_disk is not None
        sizes.append(table.nbytes() - table.on_disk.nbytes())
        assert table.on_disk.nbytes() < 5 * (number + 1) * 10_000
    assert sizes[-1] < sizes[0] * 1.3
    assert table.rows() == 80_000


def test_state_with_cold_groups_needs_a_store(store: ColdStore) -> None:
    schema = pa.schema([("k", pa.int64())])
    rows = LastRows(schema, [0])
    rows.use(store)
    rows.write(
        rows.open(rows.intern(pa.RecordBatch.from_pydict({"k": [1, 2]}, schema=schema))).ids, np.ones((2, 1), int)
    )
    rows.commit()
    rows.seal(1.0)
    rows.finish_sealing()
    with pytest.raises(StateError, match="no store"):
        LastRows(schema, [0]).load(rows.changes(True))


def test_the_oldest_go_first(store: ColdStore) -> None:
    schema = pa.schema([("k", pa.int64())])
    table = GroupTable(KeyTable(schema), 1)
    table.use(store)
    for keys in ([1, 2, 3, 4], [3], [1]):
        table.open(table.intern(pa.RecordBatch.from_pydict({"k": keys}, schema=schema)))
        table.commit()
    table.seal(0.5)
    table.finish_sealing()
    assert sorted(table.keys.gather(table.all_ids()).column(0).to_pylist()) == [1, 3]
    assert Batch(next(iter(table._spill.contents()))).num_rows == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["aggregate", "normalize", "window"])
def test_a_read_that_fails_changes_nothing(name: str, store: ColdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far a recall has come: after the rollback every group is there once."""
    _, make = OPERATORS[name]
    schema = WINDOWED if name == "window" else SCHEMA
    history = history_of(schema, 7, 30, 12)
    hot, cold, fails, failures = make(), use(make(), store), 0, 0
    begin = store.begin

    def failing(wanted: Any) -> Any:
        nonlocal fails
        fails -= 1
        if fails == 0:
            raise StateError("the disk is gone")
        return begin(wanted)

    monkeypatch.setattr(store, "begin", failing)
    for number, epoch in enumerate(history):
        batches, now = batches_of(schema, epoch), turn(watermark=DAY_1 + number * 8 * 10**6)
        expected, got = net(hot.process([batches], now)), None
        while got is None:
            fails += 1 + number % 4
            try:
                got = net(cold.process([batches], now))
            except StateError:
                failures += 1
                each(cold, "rollback")
                fails = 10**9 if failures % 3 == 0 else 0
        fails = 0
        assert got == expected
        each(hot, "commit")
        each(cold, "commit")
        for state in tiered(cold):
            state.seal(1.0)
            state.finish_sealing()
        while store._cached:
            store._evict()
    assert failures > 10


def test_dead_groups_leave_no_trace(store: ColdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same groups out and in again, for long: neither segments nor deaths pile up."""
    monkeypatch.setattr("forebay.engine.state.eviction._STEP", 1 << 20)
    monkeypatch.setattr("forebay.engine.state.cold._SLICE", 1 << 17)
    schema = pa.schema([("k", pa.int64())])
    table = GroupTable(KeyTable(schema), 1)
    table.use(store)
    rows = pa.RecordBatch.from_pydict({"k": range(20_000)}, schema=schema)
    for number in range(20):
        ids = table.intern(rows)
        table.open(ids)
        assert (table.words[ids, 0] == number).all()
        table.words[ids, 0] += 1
        table.commit()
        table.seal(1.0)
        while table.maintain():
            pass
    spill = table._spill
    assert spill is not None
    assert spill.groups.rows() <= 60_000
    assert len(spill.groups.dead._bits.chunks) <= 3  # of 6 in all


def test_a_closing_window_does_not_come_back_into_memory(store: ColdStore) -> None:
    """Groups on disk are shown from there, in pieces, and stay if the epoch is undone."""
    keys = [(f"key {i}", i, None) for i in range(500)]
    operator = use(window(), store)
    end = datetime(2026, 1, 1)
    rows = [((k, v, end), 1) for k, v, _ in keys]
    operator.process([[batch_of(WINDOWED, rows)]], turn(watermark=DAY_1 - 1))
    each(operator, "commit")
    for state in tiered(operator):
        state.seal(1.0)
        state.finish_sealing()
    table = operator.states()["groups"]
    assert isinstance(table, GroupTable)
    for ending in ("rollback", "commit"):
        out = operator.process([[]], turn(watermark=DAY_1))
        assert net(out) == Counter({(end, k, 1, 1, v): 1 for k, v, _ in keys})
        assert table.keys.count == 0
        each(operator, ending)
        assert {s.rows() for name, s in operator.states().items() if name != "closed"} == {
            500 if ending == "rollback" else 0
        }
    assert operator.process([[]], turn(watermark=MAX_WATERMARK)) == []
