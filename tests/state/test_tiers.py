"""Sealing, merging and restarting change nothing that a reader sees: arrangements with cold rows against a plain multiset."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forebay.engine.errors import StateError
from forebay.engine.state.arrangement import NOTHING, Arrangement
from forebay.engine.state.coldstore import ColdStore
from tests.state.test_arrangement import PAIR, Row, applied, batch_of, contents, deltas, probed

ENDS = ["commit", "commit", "rollback", "save", "restart"]
CARE = ["", "seal", "seal", "step", "settle"]
KEYS = [None, 1, 2, 3, 4]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sealing", "cold"):
        monkeypatch.setattr(f"forebay.engine.state.{module}._SLICE", 3)
    monkeypatch.setattr("forebay.engine.state.cold.FAN", 2)
    monkeypatch.setattr("forebay.engine.state.cold.DEAR", 0)


def close_chunk(arrangement: Arrangement) -> None:
    """Let the last chunk count as full, so that it can be sealed."""
    hot = arrangement._rows.hot
    hot.close(hot.open_chunk + 1)


def made(store: ColdStore, key: tuple[int, ...] = (0,), identity: tuple[int, ...] | None = None) -> Arrangement:
    arrangement = Arrangement(PAIR, key, identity)
    arrangement.use(store)
    return arrangement


def care_for(arrangement: Arrangement, care: str) -> None:
    if care == "seal":
        close_chunk(arrangement)
        arrangement.seal(1.0)
    elif care == "step":
        arrangement.maintain()
    elif care == "settle":
        while arrangement.maintain():
            pass


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(st.tuples(deltas, st.sampled_from(ENDS), st.sampled_from(CARE)), max_size=14),
    identity=st.sampled_from([None, (0,), (1,)]),
    key=st.sampled_from([(0,), (1,), (0, 1), ()]),
)
def test_follows_a_multiset(
    steps: list[tuple[list[tuple[Row, int]], str, str]], identity: tuple[int, ...] | None, key: tuple[int, ...]
) -> None:
    store = ColdStore(None)
    try:
        follow(store, steps, identity, key)
    finally:
        store.close()


def follow(
    store: ColdStore,
    steps: list[tuple[list[tuple[Row, int]], str, str]],
    identity: tuple[int, ...] | None,
    key: tuple[int, ...],
) -> None:
    arrangement, model = made(store, key, identity), Counter[Row]()
    chain: list[pa.RecordBatch] = []
    for number, (changes, end, care) in enumerate(steps, 1):
        after = applied(model, changes)
        unmatched = arrangement.unmatched
        arrangement.update([batch_of(changes[:5]), batch_of(changes[5:])], number)
        assert contents(arrangement, arrangement.old(number)) == model
        assert contents(arrangement, arrangement.new(number)) == after
        assert contents(arrangement, NOTHING) == Counter()
        if end == "rollback":
            arrangement.rollback()
            assert arrangement.unmatched == unmatched
        else:
            arrangement.commit()
            model = after
        if end in ("save", "restart"):
            chain += arrangement.changes(full=not chain)
            store.collect([s.number for s in arrangement.cold_segments()])
        if end == "restart":
            arrangement.close()
            arrangement = made(store, key, identity)
            arrangement.load(chain)
        care_for(arrangement, care)
        assert contents(arrangement) == model
        assert arrangement.rows() == sum(ids.size for ids in arrangement.visible())


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(deltas, st.sampled_from(CARE)), min_size=1, max_size=9),
    nulls_match=st.booleans(),
    held=st.integers(0, 6),
)
@example(  # a row that died is merged away, which the reader of an older epoch still sees
    steps=[([((None, None), 1)], "seal"), ([((3, "r"), 1)], "step"), ([], "seal"), ([((3, "r"), -1)], "settle")],
    nulls_match=False,
    held=0,
)
def test_probes_see_their_epoch(steps: list[tuple[list[tuple[Row, int]], str]], nulls_match: bool, held: int) -> None:
    store = ColdStore(None)
    arrangement, models = made(store), [Counter[Row]()]
    held = min(held, len(steps) - 1)
    for number, (changes, care) in enumerate(steps, 1):
        if number == held + 1:
            arrangement.hold(held)
        models.append(applied(models[-1], changes))
        arrangement.update([batch_of(changes)], number)
        arrangement.commit()
        care_for(arrangement, care)
        batch = pa.RecordBatch.from_arrays([pa.array(KEYS, pa.int64())], names=["k"])
        for epoch in range(held if number > held else number, number + 1):
            model, view = models[epoch], arrangement.new(epoch)
            expected = Counter(
                {
                    (key, *row): weight
                    for key in KEYS
                    for row, weight in model.items()
                    if row[0] == key and (key is not None or nulls_match)
                }
            )
            assert probed(arrangement, KEYS, view, nulls_match=nulls_match) == expected
            exists = arrangement.exists(batch, (0,), view, nulls_match=nulls_match)
            assert exists.tolist() == [any(r[0] == k and (k is not None or nulls_match) for r in model) for k in KEYS]
    store.close()


def test_rows_that_die_while_they_are_sealed_stay_dead_after_a_restart(store: ColdStore) -> None:
    arrangement = made(store)
    arrangement.update([batch_of([((k, str(k)), 1) for k in range(10)])], 1)
    arrangement.commit()
    close_chunk(arrangement)
    assert arrangement.seal(1.0)
    arrangement.maintain()
    arrangement.update([batch_of([((k, str(k)), -1) for k in range(0, 10, 2)])], 2)
    arrangement.commit()
    chain = arrangement.changes(full=True)
    assert not arrangement.cold_segments()
    while arrangement.maintain():
        pass
    assert len(arrangement.cold_segments()) == 1
    odd = Counter({(k, str(k)): 1 for k in range(1, 10, 2)})
    assert contents(arrangement) == odd
    chain += arrangement.changes(full=False)
    again = made(store)
    again.load(chain)
    assert contents(again) == odd
    assert again.rows() == arrangement.rows() == 5


def test_sealing_gives_memory_back(store: ColdStore) -> None:
    arrangement = made(store)
    wide = [((k, "x" * 500), 1) for k in range(70_000)]
    arrangement.update([batch_of(wide)], 1)
    arrangement.commit()
    before = arrangement.hot_bytes()
    assert arrangement.seal(1.0)
    assert not arrangement.seal(1.0), "one at a time"
    while arrangement.maintain():
        pass
    assert arrangement.hot_bytes() < before / 2
    assert arrangement.rows() == 70_000
    assert not arrangement.seal(1.0), "the last chunk is not full"


def test_a_hundred_segments_become_few(store: ColdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.engine.state.cold.FAN", 4)
    arrangement = made(store)
    for number in range(1, 101):
        arrangement.update([batch_of([((number * 10 + k, "v"), 1) for k in range(10)])], number)
        arrangement.commit()
        close_chunk(arrangement)
        arrangement.seal(1.0)
        while arrangement.maintain():
            pass
    assert len(arrangement.cold_segments()) < 10
    assert sum(contents(arrangement).values()) == 1000


def test_cold_state_needs_a_store(store: ColdStore) -> None:
    arrangement = made(store)
    arrangement.update([batch_of([((1, "a"), 1)])], 1)
    arrangement.commit()
    close_chunk(arrangement)
    arrangement.seal(1.0)
    arrangement.maintain()
    with pytest.raises(StateError, match="no store"):
        Arrangement(PAIR, (0,)).load(arrangement.changes(full=True))
