"""Only what the plan reads is decoded: columns, members of ROWs; what goes by position is read whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from forebay.connectors.records import RecordDecoder
from forebay.engine.connector import ColumnSpec, TableSpec
from tests.formats.reading import REGISTRY, records

INNER = pa.struct([("x", pa.int64()), ("deep", pa.struct([("p", pa.int64()), ("q", pa.string())])), ("y", pa.string())])
COLUMNS = (ColumnSpec("a", pa.int64()), ColumnSpec("r", INNER), ColumnSpec("s", pa.string()))
ROW = {"a": 1, "r": {"x": 2, "deep": {"p": 3, "q": "four"}, "y": "five"}, "s": "six"}


def decoded(read: tuple[str, ...] | None, values: list[Any], **options: str) -> list[dict[str, Any]]:
    spec = TableSpec("t", COLUMNS, {"format": "json", **options}, read_columns=read)
    found = RecordDecoder(REGISTRY, spec).decode(records([json.dumps(v).encode() for v in values]))
    assert not found.dead and not found.unknown_fields
    assert found.batch.rows.schema == spec.schema()
    found.batch.rows.validate(full=True)
    return found.batch.rows.to_pylist()


@pytest.mark.parametrize("times", [1, 40], ids=["one by one", "columns"])
@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (None, ROW),
        (("s",), {"a": None, "r": None, "s": "six"}),
        (("r.y",), {"a": None, "r": {"x": None, "deep": None, "y": "five"}, "s": None}),
        (
            ("a", "r.deep.q", "r.x"),
            {"a": 1, "r": {"x": 2, "deep": {"p": None, "q": "four"}, "y": None}, "s": None},
        ),
        (("r.deep",), {"a": None, "r": {"x": None, "deep": {"p": 3, "q": "four"}, "y": None}, "s": None}),
        (("r", "r.x"), {"a": None, "r": ROW["r"], "s": None}),
    ],
)
def test_members_that_nobody_reads_are_null(read: Any, expected: dict[str, Any], times: int) -> None:
    assert decoded(read, [ROW] * times) == [expected] * times
    missing = {**expected, "r": None} if expected["r"] is not None else expected
    assert decoded(read, [{**ROW, "r": None}] * times) == [missing] * times


def test_what_nobody_reads_need_not_be_readable() -> None:
    assert decoded(("r.y",), [{"a": "x", "r": {"x": {}, "y": "five"}}] * 40)[0]["r"]["y"] == "five"


@pytest.mark.parametrize("times", [1, 40])
def test_lines_are_read_whole(times: int) -> None:
    columns = (ColumnSpec("a", pa.int64()), ColumnSpec("b", pa.string()))
    spec = TableSpec("t", columns, {"format": "csv"}, read_columns=("b",))
    found = RecordDecoder(REGISTRY, spec).decode(records([b"1,x"] * times))
    assert not found.dead and found.batch.rows.column("b").to_pylist() == ["x"] * times


def test_files_too(tmp_path: Path) -> None:
    (tmp_path / "part.json").write_text("".join(json.dumps(ROW) + "\n" for _ in range(50)))
    options = {"connector": "filesystem", "path": str(tmp_path), "format": "json"}
    source = REGISTRY.connector("filesystem").source
    assert source is not None
    reader = source(TableSpec("t", COLUMNS, options, read_columns=("r.deep.p",))).reader(None)
    fetched = reader.poll(1000, 0.0)
    assert fetched is not None and not np.any(fetched.batch.weights)
    assert fetched.batch.rows.column("r").to_pylist() == [{"x": None, "deep": {"p": 3, "q": None}, "y": None}] * 50
    reader.close()
