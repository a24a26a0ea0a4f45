"""Micro-benchmarks of the kernels that write and split text, on 8192 values each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from forebay.connectors.formats.fragments import Template, assemble
from forebay.connectors.formats.rendering import Style, renderer
from forebay.connectors.formats.separated import Splitter

ROWS = 8192
Run = Callable[..., Any]

random = np.random.default_rng(7)
integers = random.integers(0, 10**9, ROWS)
COLUMNS: dict[str, pa.Array] = {
    "integers": pa.array(integers),
    "decimals": pa.array(integers // 10**3).cast(pa.decimal128(19, 0)).cast(pa.decimal128(21, 2)),
    "doubles, two places": pa.array(integers / 100),
    "doubles, random": pa.array(random.random(ROWS)),
    "booleans": pa.array(integers % 2 == 0),
    "dates": pa.array((integers // 10**5).astype(np.int32)).cast(pa.date32()),
    "timestamps": pa.array(1_700_000_000_000 + np.arange(ROWS)).cast(pa.timestamp("ms")),
    "strings": pa.array([f"user-{i}" for i in integers]),
    "strings with escapes": pa.array([f'"{i}"\n' for i in integers]),
    "bytes": pa.array([str(i).encode() for i in integers]),
    "arrays of strings": pa.array([["a", str(i)] for i in integers]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_column_to_json(benchmark: Run, kind: str) -> None:
    column = COLUMNS[kind]
    render = renderer(column.type, Style())
    assert len(benchmark(render, column).starts) == ROWS


def test_records_of_six_columns(benchmark: Run) -> None:
    columns = [renderer(c.type, Style())(c) for c in list(COLUMNS.values())[:6]]
    template = Template([b',"name":'] * 6, (b"{", b"}"), drop=1)
    assert len(benchmark(assemble, template, columns, ROWS)[1]) == ROWS + 1


@pytest.mark.parametrize("line", ["1,user-1,2.5,Oslo", '1,"user-1",2.5,"Oslo, Norway"', '1,"a ""user""",2.5,Oslo'])
def test_split_lines(benchmark: Run, line: str) -> None:
    types = [pa.int64(), pa.string(), pa.float64(), pa.string()]
    splitter = Splitter(types, (ord(","), ord('"'), -1, -1), None)
    lines = pa.array([line.encode()] * ROWS, pa.binary())
    assert len(benchmark(splitter.scan, lines).record) == ROWS
