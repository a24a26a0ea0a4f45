"""Shortcuts to declare tables as a connector sees them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from forebay.engine.connector import ColumnSpec, Reader, TableSpec


def table(columns: dict[str, pa.DataType] | pa.Schema, options: dict[str, str], **more: Any) -> TableSpec:
    """A TableSpec of physical columns."""
    fields = columns if isinstance(columns, pa.Schema) else pa.schema(list(columns.items()))
    specs = tuple(ColumnSpec(f.name, f.type, f.nullable) for f in fields)
    return TableSpec(more.pop("name", "t"), specs, options, **more)


def drain(reader: Reader, step: int = 1000) -> pa.Table:
    """Every row of a bounded reader."""
    batches = []
    while (fetched := reader.poll(step, 0)) is not None or not reader.finished():
        if fetched is not None:
            batches.append(fetched.batch.rows)
    return pa.Table.from_batches(batches)
