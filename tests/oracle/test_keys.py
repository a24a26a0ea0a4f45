"""Keys that bits tell apart and SQL does not (-0.0, NaN), keys that SQL never finds equal (NULL), keys with equal hashes."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

import forebay
from forebay.engine.batch import Batch
from forebay.engine.state.arrangement import Arrangement
from forebay.engine.state.arrays import UInt64s, hash_rows
from tests.oracle.harness import Oracle, changes, create

SCHEMA = pa.schema([("k", pa.float64()), ("v", pa.int64())])
OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000001))[0]
KEYS = (0.0, -0.0, math.nan, OTHER_NAN, None, 1.5, math.inf, -math.inf, 5e-324)
QUERIES = {
    "grouped": "SELECT k, COUNT(*) AS n, SUM(v) AS s FROM t GROUP BY k",
    "only": "SELECT DISTINCT k FROM t",
    "counted": "SELECT COUNT(DISTINCT k) AS c, MIN(k) AS low, MAX(k) AS high FROM t",
    "joined": "SELECT t.k, t.v, u.v AS w FROM t JOIN u ON t.k = u.k",
    "either": "SELECT t.k AS a, u.k AS b, t.v, u.v AS w FROM t FULL JOIN u ON t.k = u.k",
    "alike": "SELECT t.v, u.v AS w FROM t JOIN u ON t.k IS NOT DISTINCT FROM u.k",
    "present": "SELECT v FROM t WHERE k IN (SELECT k FROM u)",
    "absent": "SELECT v FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k)",
    "firsts": "SELECT k, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY v) AS n FROM t) WHERE n <= 2",
    "rest": "SELECT k FROM t EXCEPT SELECT k FROM u",
    "zeros": "SELECT v FROM t WHERE k = 0.0",
}


def relation(seed: int, rows: int = 60) -> pa.RecordBatch:
    rng = random.Random(seed)
    keys = [rng.choice(KEYS) for _ in range(rows)]
    return pa.record_batch([pa.array(keys, pa.float64()), pa.array(range(rows), pa.int64())], schema=SCHEMA)


@pytest.mark.parametrize("seed", [0, 1])
def test_odd_floats_as_keys(seed: int) -> None:
    data = {"t": relation(seed), "u": relation(seed + 50)}
    with forebay.connect(resume=False) as con:
        oracle = Oracle(con)
        for table in data:
            create(con, table, SCHEMA)
        for name, query in QUERIES.items():
            oracle.view(name, query)
        for step, change in enumerate(changes(data, random.Random(seed), 10)):
            oracle.feed(change)
            oracle.check(step)
        assert sum(oracle.answers.values()) >= oracle.comparisons / 2, oracle.answers


def test_what_equal_means() -> None:
    """The same by hand: here no batch answer takes part."""
    rows = pa.record_batch([pa.array(KEYS, pa.float64()), pa.array(range(len(KEYS)), pa.int64())], schema=SCHEMA)
    with forebay.connect(resume=False) as con:
        for table in "tu":
            create(con, table, SCHEMA)
        oracle = Oracle(con)
        for name, query in QUERIES.items():
            oracle.view(name, query)
        oracle.feed({"t": Batch(rows), "u": Batch(rows.slice(1, 4))})  # u: -0.0, two NaNs, NULL
        shown = {name: sorted(oracle.shown(name).elements(), key=repr) for name in QUERIES}
        assert shown["zeros"] == [(0,), (1,)]
        assert shown["present"] == [(0,), (1,), (2,), (3,)]
        assert shown["absent"] == [(4,), (5,), (6,), (7,), (8,)]
        assert shown["counted"] == [(6, -math.inf, "nan")]
        assert len(shown["only"]) == 7
        assert len(shown["joined"]) == 2 + 2 * 2
        assert len(shown["alike"]) == 2 + 2 * 2 + 1
        gone = Batch(rows.slice(0, 3), np.full(3, -1, np.int64))
        oracle.feed({"t": gone})
        assert set(oracle.shown("grouped").elements()) >= {("nan", 1, 3), (None, 1, 4)}
        assert not oracle.shown("zeros")
        oracle.check()


TEXTS = pa.schema([("k", pa.string()), ("v", pa.string()), ("n", pa.int32())])
TEXT_QUERIES = {
    "grouped": "SELECT k, v, COUNT(*) AS c, SUM(n) AS s FROM t GROUP BY k, v",
    "counted": "SELECT k, COUNT(DISTINCT v) AS c, MIN(v) AS low FROM t GROUP BY k",
    "joined": "SELECT t.k, t.v, u.n FROM t JOIN u ON t.k = u.k AND t.v = u.v",
    "either": "SELECT t.k AS a, u.k AS b, t.n, u.n AS m FROM t FULL JOIN u ON t.k = u.k",
    "absent": "SELECT k, v FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k)",
    "firsts": "SELECT k, v FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY v, n) AS r FROM t) WHERE r <= 2",
    "both": "SELECT k, v FROM t INTERSECT SELECT k, v FROM u",
}


def test_equal_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys and rows share three hashes: nothing is lost or mixed up, only slower."""

    def three(rows: pa.RecordBatch, columns: Sequence[int]) -> UInt64s:
        return hash_rows(rows, columns) % np.uint64(3)

    for module in ("keys", "arrangement", "hot"):
        monkeypatch.setattr(f"forebay.engine.state.{module}.hash_rows", three)
    monkeypatch.setattr("forebay.engine.consolidate.hash_rows", three)
    monkeypatch.setattr(Arrangement, "_must_verify", lambda self, keys, columns: bool(self.key))
    rng = random.Random(5)

    def rows(count: int) -> pa.RecordBatch:
        texts = [[rng.choice(("", "a", "b", "ab", "ba", None)) for _ in range(count)] for _ in "kv"]
        return pa.record_batch(
            [*map(pa.array, texts), pa.array([rng.randrange(3) for _ in range(count)], pa.int32())], schema=TEXTS
        )

    data = {"t": rows(50), "u": rows(30)}
    with forebay.connect(resume=False) as con:
        oracle = Oracle(con)
        for table in data:
            create(con, table, TEXTS)
        for name, query in TEXT_QUERIES.items():
            oracle.view(name, query)
        for step, change in enumerate(changes(data, random.Random(5), 8)):
            oracle.feed(change)
            oracle.check(step)
        assert sum(oracle.answers.values()) >= oracle.comparisons / 2, oracle.answers
