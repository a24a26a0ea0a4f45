"""Keyed state far larger than memory: `python -m bench.keyed --rows N --keys K --budget 128MB --cases group-by,... --json FILE`.

Rows with uniformly random keys and a text of 500 bytes that belongs to the key go through one keyed operator each: GROUP BY,
DISTINCT, MIN/MAX over rows some of which are retracted, Top-N, deduplication (the last row of a key), upsert normalisation.
The sink adds up a checksum of all changes per bucket of keys, which is compared with a recomputation without the engine.
`state_mb` is the state by its rows as they are written, uncompressed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bench import measure
from bench.month_join import Timed
from forebay.connectors.generated import below, draw, high, stream_key
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Fetched, Option, Position, Reader, Sink, Source, TableSpec
from forebay.engine.state import Segmented

Numbers = npt.NDArray[np.int64]
_BUCKETS = 4096
_LOOKED_AT = 1000
"""Rows of a batch whose text is compared."""
_FACTORS = [np.int64(f) for f in (0x9E3779B97F4A7C1, 0x2545F4914F6CDD1, 0x369DEA0F31A53F8, 0x27BB2EE687B0B0F)]
NAMES = pa.array([f"the shop on the corner of street {n:03d}, ".ljust(500, "-") for n in range(1000)])
SCHEMA = pa.schema([("k", pa.int64()), ("v", pa.int64()), ("name", pa.string())])


@dataclass(frozen=True)
class Rows:
    """Row i has a key and a value as a pure function of i; one in five is retracted after a quarter of all, if wanted."""

    rows: int
    keys: int
    seed: int = 0
    ordered: bool = False
    """Values ascend."""

    def key(self, ids: Numbers) -> Numbers:
        return below(high(draw(stream_key(self.seed, "key"), ids)), self.keys)

    def value(self, ids: Numbers) -> Numbers:
        return ids if self.ordered else (draw(stream_key(self.seed, "value"), ids) >> np.uint64(2)).view(np.int64)

    def retracted(self, ids: Numbers) -> Numbers:
        """Which of these rows are taken back, in the end."""
        ids = ids[(ids >= 0) & (ids < self.rows - self.rows // 4)]
        return ids[below(high(draw(stream_key(self.seed, "gone"), ids)), 5) == 0]

    def batch(self, ids: Numbers) -> pa.RecordBatch:
        key = self.key(ids)
        columns = [pa.array(key), pa.array(self.value(ids)), NAMES.take(pa.array(key % 1000))]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


class RowSource(Source):
    """`kind` append, upsert or retract."""

    schema = SCHEMA
    bounded = True

    def __init__(self, rows: Rows, kind: str) -> None:
        self.rows = rows
        self.changelog = Changelog(kind)

    def reader(self, positions: Mapping[str, Position] | None) -> Reader:
        return RowReader(self, int(positions["0"]) if positions else 0)


class RowReader(Reader):
    """The position is the number of the next row."""

    def __init__(self, source: RowSource, at: int) -> None:
        self._source = source
        self._at = at
        self._end = source.rows.rows

    def splits(self) -> list[str]:
        return ["0"]

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        if self.finished():
            return None
        rows, ids = self._source.rows, np.arange(self._at, min(self._at + max_rows, self._end))
        self._at = int(ids[-1]) + 1
        batch = Batch(rows.batch(ids))
        if self._source.changelog is Changelog.RETRACT:
            gone = rows.retracted(ids - rows.rows // 4)
            weights = np.repeat(np.array([1, -1]), [ids.shape[0], gone.shape[0]])
            batch = Batch(pa.concat_batches([batch.rows, rows.batch(gone)]), weights)
        return Fetched(batch, None, records=batch.num_rows)

    def positions(self) -> dict[str, Position]:
        return {"0": self._at}

    def finished(self) -> bool:
        return self._at >= self._end

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self._end = self._source.rows.rows if positions is None else int(positions["0"])

    def lag(self) -> int:
        return self._end - self._at


class Check:
    """Rows and checksums of their numbers, per bucket of keys."""

    def __init__(self) -> None:
        self.sums = np.zeros((2, _BUCKETS), np.int64)

    def add(self, weights: Numbers, *numbers: Numbers) -> None:
        """Add rows; the first number is the key."""
        mixed = np.zeros(weights.shape[0], np.int64)
        for number, factor in zip(numbers, _FACTORS):
            mixed = (mixed ^ (number * factor)) * _FACTORS[0]
        bucket = numbers[0] % _BUCKETS
        np.add.at(self.sums[0], bucket, weights)
        np.add.at(self.sums[1], bucket, weights * mixed)


class CheckSink(Sink):
    """Adds up what comes; some of the texts are compared with that of their key."""

    def __init__(self) -> None:
        self.check = Check()
        self.wrong = 0

    def recover(self) -> int | None:
        return None

    def write(self, batch: Batch) -> None:
        rows = batch.rows
        numbers = [c.to_numpy() for c, f in zip(rows.columns, rows.schema) if f.name != "name"]
        self.check.add(batch.weight_array(), *numbers)
        if "name" in rows.schema.names:
            expected = NAMES.take(pa.array(numbers[0][:_LOOKED_AT] % 1000))
            self.wrong += pc.sum(pc.not_equal(rows.column("name")[:_LOOKED_AT], expected)).as_py() or 0

    def commit(self, checkpoint: int) -> None:
        pass


@dataclass(frozen=True)
class Case:
    """A query over rows, and its answer: numbers of the output rows, the key first."""

    kind: str
    query: str
    columns: str
    answer: Callable[[Numbers, Numbers], tuple[Numbers, ...]]


def _groups(k: Numbers, v: Numbers) -> tuple[Numbers, ...]:
    count = np.bincount(k)
    total = np.zeros(count.shape[0], np.int64)
    np.add.at(total, k, v)
    there = np.flatnonzero(count)
    return there, count[there], total[there]


def _distinct(k: Numbers, v: Numbers) -> tuple[Numbers, ...]:
    return (np.flatnonzero(np.bincount(k)),)


def _ends(k: Numbers, v: Numbers) -> tuple[Numbers, ...]:
    order = np.lexsort((v, k))
    k, v = k[order], v[order]
    first = np.flatnonzero(np.r_[True, k[1:] != k[:-1]])
    return k[first], v[first], v[np.r_[first[1:], k.shape[0]] - 1]


def _top(k: Numbers, v: Numbers) -> tuple[Numbers, ...]:
    order = np.lexsort((-v, k))
    k, v = k[order], v[order]
    best = np.ones(k.shape[0], bool)
    best[2:] = k[2:] != k[:-2]
    return k[best], v[best]


def _last(k: Numbers, v: Numbers) -> tuple[Numbers, ...]:
    last = np.full(int(k.max()) + 1, -1)
    last[k] = np.arange(k.shape[0])
    rows = last[last >= 0]
    return k[rows], v[rows]


_RANKED = """SELECT k, v, name FROM (SELECT k, v, name, ROW_NUMBER() OVER (PARTITION BY k ORDER BY {}) AS n FROM t)
  WHERE n <= {}"""
CASES = {
    "group-by": Case(
        "append", "SELECT k, name, COUNT(*) AS n, SUM(v) AS s FROM t GROUP BY k, name",
        "k BIGINT, name STRING, n BIGINT, s BIGINT", _groups,
    ),
    "distinct": Case("append", "SELECT DISTINCT k, name FROM t", "k BIGINT, name STRING", _distinct),
    "min-max": Case(
        "retract", "SELECT k, name, MIN(v) AS a, MAX(v) AS b FROM t GROUP BY k, name",
        "k BIGINT, name STRING, a BIGINT, b BIGINT", _ends,
    ),
    "top-n": Case("append", _RANKED.format("v DESC", 2), "k BIGINT, v BIGINT, name STRING", _top),
    "deduplication": Case("append", _RANKED.format("v DESC", 1), "k BIGINT, v BIGINT, name STRING", _last),
    "upserts": Case("upsert", "SELECT k, v, name FROM t", "k BIGINT, v BIGINT, name STRING", _last),
}  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One case."""
    from forebay.connection import Connection
    from forebay.connectors import default_registry

    case, rows, registry, sink = (
        CASES[args.case],
        Rows(args.rows, args.keys, args.seed, args.case == "deduplication"),
        default_registry(),
        CheckSink(),
    )
    registry.connectors["rows"] = Connector("rows", (Option("kind", ""),), source=lambda spec: _source(rows, spec))
    registry.connectors["check"] = Connector(
        "check", (), sink=lambda spec: sink, sink_changelog=lambda spec: Changelog.RETRACT
    )
    generator = Timed(RowReader.poll, time.thread_time)
    RowReader.poll = lambda self, most, timeout: generator(self, most, timeout)  # type: ignore[method-assign]
    key = ", PRIMARY KEY (k) NOT ENFORCED" if case.kind == "upsert" else ""
    with (
        tempfile.TemporaryDirectory(dir=args.directory) as directory,
        Connection(f"{directory}/w" if args.durable else ":memory:", registry=registry) as con,
    ):
        con.execute(f"""
            SET 'memory.budget' = '{args.budget}';
            CREATE TABLE t (k BIGINT, v BIGINT, name STRING{key}) WITH ('connector' = 'rows', 'kind' = '{case.kind}');
            CREATE TABLE o ({case.columns}) WITH ('connector' = 'check');
        """)
        driver = con.warehouse.driver
        epochs = Timed(driver._run, time.perf_counter)
        driver._run = epochs  # type: ignore[method-assign]
        base = measure.peak_rss_mb()

        def work() -> dict[str, Any]:
            con.execute(f"INSERT INTO o {case.query}")
            con.wait(timeout=args.timeout)
            return {}

        result = measure.measure("", args.rows + _retractions(rows, case), work)
        states = [s for n in driver.flow.order for s in n.states().values()]
        cold = [s for state in states if isinstance(state, Segmented) for s in state.cold_segments()]
        per_row = sum(s.nbytes_on_disk for s in cold) / max(sum(s.rows for s in cold), 1)
        result.more.update(
            {
                "engine_rows_per_s": round(result.rows / (result.cpu_seconds - sum(generator.calls))),
                "p99_epoch_ms": float(np.percentile(epochs.calls, 99)) * 1e3,
                "max_epoch_ms": max(epochs.calls) * 1e3,
                "base_rss_mb": base,
                "state_rows": sum(s.rows() for s in states),
                "state_mb": per_row * sum(s.rows() for s in states) / 2**20,
                "memory_state_mb": driver.budget.used / 2**20,
                "disk_mb": driver.cold.disk_bytes() / 2**20,
                "written_mb": driver.cold.written / 2**20,
                "read_blocks": driver.cold.read_blocks,
                "segments": len(cold),
                "seconds_held": driver.budget.held,
            }
        )
    expected = Check()
    ids = np.arange(args.rows)
    if case.kind == "retract":
        ids = np.setdiff1d(ids, rows.retracted(ids), assume_unique=True)
    answer = case.answer(rows.key(ids), rows.value(ids))
    expected.add(np.ones(answer[0].shape[0], np.int64), *answer)
    result.more["correct"] = bool((expected.sums == sink.check.sums).all()) and not sink.wrong
    return result.entry() | {"case": f"{args.case}, {args.keys / 1e6:g} M keys, {args.budget}"}


def _source(rows: Rows, spec: TableSpec) -> Source:
    return RowSource(rows, spec.options["kind"])


def _retractions(rows: Rows, case: Case) -> int:
    return rows.retracted(np.arange(rows.rows)).shape[0] if case.kind == "retract" else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("bench.keyed", description="Keyed state far larger than memory.")
    made.add_argument("--rows", type=int, default=3_200_000)
    made.add_argument("--keys", type=int, default=3_200_000)
    made.add_argument("--budget", default="128MB", help="memory budget")
    made.add_argument("--cases", default=",".join(CASES), help="some of " + ", ".join(CASES))
    made.add_argument("--durable", action="store_true", help="a warehouse on disk, with checkpoints")
    made.add_argument("--directory", help="where the warehouse's files go")
    return measure.cases(made)


def whole(args: argparse.Namespace, argv: list[str]) -> int:
    """Run every case in a process of its own, and report; 1 if a result is wrong."""
    entries = [
        measure.in_process("bench.keyed", [*argv, "--case", case], args.timeout + 600) for case in args.cases.split(",")
    ]
    for entry in entries:
        print(measure.listing(entry), file=sys.stderr)
    measure.report("keyed", entries, args.json, budget=args.budget)
    return 0 if all(entry["correct"] for entry in entries) else 1


def main(argv: list[str] | None = None) -> int:
    """The command."""
    return measure.main(parser(), argv, run, whole)


if __name__ == "__main__":
    sys.exit(main())
