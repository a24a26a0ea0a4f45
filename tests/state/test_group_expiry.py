"""What groups that have expired leave behind: nothing, after a while, in memory and on disk."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from forebay.engine.batch import Batch
from forebay.engine.operators.accumulators import CallSpec
from forebay.engine.operators.aggregate import AggregateOperator, AggregateSpec
from forebay.engine.operators.base import Turn
from forebay.engine.operators.expiry import GroupLife
from forebay.engine.operators.horizon import Lifetime
from forebay.engine.state import Tiered
from forebay.engine.state.coldstore import ColdStore
from tests.operators.changelogs import net

HOUR = 3600 * 10**6
INPUT = pa.schema([("k", pa.int64()), ("v", pa.string()), ("t", pa.timestamp("us"))])
CALLS = (CallSpec("count", (1,), pa.int64(), distinct=True), CallSpec("min", (1,), pa.string()))
SCHEMA = pa.schema([INPUT.field(0), pa.field("c", pa.int64()), pa.field("m", pa.string())])


class Groups:
    """An aggregation whose groups live for an hour, fed an hour's groups at a time."""

    def __init__(self, store: ColdStore) -> None:
        life = GroupLife(Lifetime(HOUR), True, 2)
        self.operator = AggregateOperator(AggregateSpec(INPUT, (0,), CALLS, SCHEMA, False, life))
        self.table = self.operator.groups.table
        for state in self.operator.states().values():
            if isinstance(state, Tiered):
                state.use(store)

    def feed(self, keys: range, hour: int) -> list[Batch]:
        ids = np.arange(keys.start, keys.stop)
        columns = [pa.array(ids), pa.array([f"the value of {k}" for k in keys])]
        times = pa.array(np.full(len(keys), hour * HOUR)).cast(pa.timestamp("us"))
        rows = pa.RecordBatch.from_arrays([*columns, times], schema=INPUT)
        out = self.operator.process([[Batch(rows)] if len(keys) else []], Turn(1, 0, (hour * HOUR,)))
        for state in self.operator.states().values():
            state.commit()
        return out

    def busy(self) -> int:
        """Bytes in memory that are not held for rows to come."""
        held = self.operator.states().values()
        return sum(s.nbytes() for s in held) - self.table.idle_bytes()

    def settle(self) -> int:
        steps = 0
        while self.table.maintain():
            steps += 1
        return steps

    def rows(self) -> int:
        return sum(s.rows() for name, s in self.operator.states().items() if name != "horizon")


def test_hot_groups_are_swept_a_slice_at_a_time(store: ColdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.engine.state.aging._SLICE", 5000)
    groups = Groups(store)
    groups.feed(range(20_000), 10)
    groups.feed(range(20_000, 20_100), 11)
    full = groups.busy()
    assert groups.rows() == 3 * 20_100
    groups.settle()
    groups.feed(range(0), 12)
    groups.settle()
    assert groups.rows() == 3 * 20_100  # the bound is at 10 o'clock: what was updated then is still there
    groups.feed(range(0), 13)
    assert groups.settle() == 5
    assert groups.rows() == 3 * 100
    assert groups.busy() < full / 10
    assert groups.settle() == 0
    groups.feed(range(1000), 13)
    assert groups.rows() == 3 * 1100


def test_cold_groups_go_by_segment(store: ColdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.engine.state.groups.LEAST", 0)
    groups = Groups(store)
    for hour in range(10, 14):
        groups.feed(range(hour * 1000, hour * 1000 + 1000), hour)
        assert groups.table.seal(1.0)
        groups.table.finish_sealing()
    spill = groups.table._spill
    assert spill is not None
    assert [len(t.segments) for t in spill.tables()] == [4, 4, 4]
    assert groups.rows() == 3 * 4000
    groups.feed(range(0), 13)
    groups.feed(range(0), 13)
    groups.table.maintain()  # the groups of 10 and 11 o'clock have expired, without a look at them
    assert [len(t.segments) for t in spill.tables()] == [2, 2, 2]
    assert [t.merges for t in spill.tables()] == [0, 0, 0]
    assert groups.rows() == 3 * 2000
    assert net(groups.feed(range(10_000, 10_001), 13)) == {(10_000, 1, "the value of 10000"): 1}
    out = net(groups.feed(range(13_000, 13_001), 13))
    assert not out  # the same value once more
    assert groups.rows() == 3 * 2001
