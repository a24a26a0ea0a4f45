"""The key that a trace follows: conditions column = value, each of which counts where there is a column of that name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forebay.engine.batch import Batch
from forebay.engine.state.arrays import Mask

MOST_SHOWN = 100
"""Rows shown of one thing."""


class Key:
    """Compares values as texts of the column's type, so that '2026-01-01' finds a timestamp and '7' a number."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def given(self, schema: pa.Schema) -> Mapping[str, Any]:
        """The conditions on columns of the schema."""
        return {name: value for name, value in self.values.items() if name in schema.names}

    def typed(self, schema: pa.Schema) -> dict[str, pa.Scalar]:
        """The values as their columns have them, without those that are none of the column's type."""
        typed = {name: typed_as(value, schema.field(name).type) for name, value in self.given(schema).items()}
        return {name: value for name, value in typed.items() if value is not None}

    def mask(self, rows: pa.RecordBatch) -> Mask | None:
        """Which rows meet all the conditions that count here; None if none does."""
        given = self.given(rows.schema)
        if not given:
            return None
        mask = np.ones(rows.num_rows, bool)
        for name, value in given.items():
            column = rows.column(rows.schema.names.index(name))
            mask &= _equal(column, value)
        return mask

    def of(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows that meet the conditions; none if no condition counts here."""
        mask = self.mask(rows)
        return rows.slice(0, 0) if mask is None else rows.filter(pa.array(mask))

    def changes(self, batches: Sequence[Batch]) -> list[Batch]:
        """`of`, for rows with weights."""
        found = []
        for batch in batches:
            mask = self.mask(batch.rows)
            if mask is not None and mask.any():
                found.append(batch.filter(pa.array(mask)))
        return found


def _equal(column: pa.Array, value: Any) -> Mask:
    if value is None:
        equal = column.is_null()
    else:
        text = pa.scalar(_text(value, column.type), pa.string())
        equal = pc.equal(_as_text(column), text).fill_null(False)
    mask: Mask = equal.to_numpy(zero_copy_only=False)
    return mask


def _as_text(column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # nested, or bytes
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())


def typed_as(value: Any, kind: pa.DataType) -> pa.Scalar | None:
    """The value as a column of this type has it; None if it is none of that type, or texts cannot be read as one."""
    text = pa.array([None if value is None else str(value)], pa.string())
    for first in (kind, pa.timestamp(kind.unit)) if pa.types.is_timestamp(kind) else (kind,):
        try:
            return text.cast(first).cast(kind)[0]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue  # a time without a zone is one of UTC
    return None


def _text(value: Any, kind: pa.DataType) -> str:
    """The value as a column of this type would write it; as it is if it is none of that type."""
    typed = typed_as(value, kind)
    return str(value) if typed is None else str(_as_text(pa.repeat(typed, 1))[0].as_py())


def told(batches: Sequence[Batch]) -> Iterator[tuple[str, str]]:
    """('+I' or '-D', the row as text) per row, each as often as its weight says, up to MOST_SHOWN; then how many are left."""
    left = sum(int(np.abs(b.weight_array()).sum()) for b in batches) - MOST_SHOWN
    shown = 0
    for batch in batches:
        for row, weight in zip(texts(batch.rows.slice(0, MOST_SHOWN)), batch.weight_array().tolist()):
            for _ in range(min(abs(weight), MOST_SHOWN - shown)):
                shown += 1
                yield "+I" if weight > 0 else "-D", row
    if left > 0:
        yield "", f".. and {left} more"


def texts(rows: pa.RecordBatch | pa.Table) -> Iterator[str]:
    """Each row on one line. Columns may have equal names."""
    for values in zip(*(column.to_pylist() for column in rows.columns)):
        yield ", ".join(f"{name} = {value}" for name, value in zip(rows.schema.names, values))
