"""Micro-benchmarks of reading JSON: finding values, then each type's column; records per second = BATCH / mean time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bench.formats import BATCH, NEXMARK, ORDER, Q0, SCHEMA, canal, nexmark_events, order
from forebay.connectors.formats.fetch import Choice, Fetch
from forebay.connectors.formats.shape import Shape
from forebay.connectors.formats.values import Rules

Run = Callable[..., Any]
IMAGES = pa.list_(pa.struct(list(SCHEMA)))
COLUMNS: dict[str, tuple[pa.DataType, Callable[[int], str]]] = {
    "bool": (pa.bool_(), lambda i: "true" if i % 3 else "false"),
    "int64": (pa.int64(), lambda i: str(7_000_000_000 + i * 7919)),
    "int64 in text": (pa.int64(), lambda i: f'"{i * 7919}"'),
    "float64": (pa.float64(), lambda i: str(i * 1.25)),
    "float64 of 17 digits": (pa.float64(), lambda i: repr(1000 / (i + 3))),
    "decimal": (pa.decimal128(10, 2), lambda i: f"{i}.{i % 100:02d}"),
    "text": (pa.string(), lambda i: f'"name of {i}"'),
    "text with escapes": (pa.string(), lambda i: f'"name \\"of\\" \\u00e9{i}"'),
    "bytes": (pa.binary(), lambda i: '"YWJjZGVmZ2hpamts"'),
    "date": (pa.date32(), lambda i: f'"2024-{i % 12 + 1:02d}-{i % 28 + 1:02d}"'),
    "timestamp": (pa.timestamp("ms"), lambda i: f'"2024-01-31 12:{i % 60:02d}:00.{i % 1000:03d}"'),
    "array": (pa.list_(pa.int64()), lambda i: f"[{i},{i + 1}]"),
}


def encoded(values: list[Any]) -> pa.BinaryArray:
    return pa.array([json.dumps(v, separators=(",", ":")).encode() for v in values], pa.binary())


@pytest.mark.parametrize("case", ["orders", NEXMARK, "canal"])
def test_scan(benchmark: Run, case: str) -> None:
    """The first stage alone, with the order of members learned."""
    wanted, values = pa.struct(list(ORDER)), encoded([order(i) for i in range(BATCH)])
    if case == NEXMARK:
        wanted, values = pa.struct(list(Q0)), pa.array(nexmark_events(), pa.binary())
    elif case == "canal":
        wanted = pa.struct([("data", IMAGES), ("old", IMAGES), ("type", pa.string())])
        values = encoded([canal(i) for i in range(BATCH)])
    shape = Shape(wanted)
    for value in values[:64].to_pylist():
        shape.learn(json.loads(value))

    def scan() -> int:
        found = shape.scan(values)
        shape.release(found)
        return len(found.record)

    assert benchmark(scan) == BATCH


@pytest.mark.parametrize("name", COLUMNS)
def test_column(benchmark: Run, name: str) -> None:
    """The second stage: one column."""
    type_, text = COLUMNS[name]
    shape = Shape(pa.struct([("c", type_)]))
    scan = shape.scan(pa.array([f'{{"c":{text(i)}}}'.encode() for i in range(BATCH)], pa.binary()))
    bad = np.zeros(BATCH, np.uint8)
    assert len(benchmark(Fetch(scan, Rules()).column, shape.root["c"], bad)) == BATCH
    assert not bad.any()


def test_chosen_rows(benchmark: Run) -> None:
    """Images before and after, alternating."""
    shape = Shape(pa.struct([("before", pa.struct(list(SCHEMA))), ("after", pa.struct(list(SCHEMA)))]))
    image = {"id": 1, "user_name": "a name"}
    scan = shape.scan(encoded([{"before": image, "after": image}] * BATCH))
    before, after = shape.root["before"], shape.root["after"]
    at = np.arange(2 * BATCH) // 2
    choice = Choice(np.where(np.arange(2 * BATCH) % 2, ~at, at), before.distance(after))
    bad = np.zeros(2 * BATCH, np.uint8)
    assert len(benchmark(Fetch(scan, Rules()).column, before["id"], bad, choice)) == 2 * BATCH
