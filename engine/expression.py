"""Scalar programs: the columns that a projection or filter computes, prepared once and run per batch.

A program's outputs are either input columns (passed through untouched) or SQL text over input columns named c0, c1, ...,
which DataFusion planned once; each batch re-executes that physical plan over a tiny live dataset, so every function and
every type has the planner's semantics. The physical plan is rebuilt now and then because its metrics grow with every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from datafusion import SessionContext

from forebay.engine.errors import DataError

_RUNS_PER_PLAN = 10_000
_names = count()


@dataclass(frozen=True, slots=True)
class Output:
    """One output column: the input column `column`, or the expression `sql`."""

    field: pa.Field
    column: int | None = None
    sql: str | None = None


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column, or the field at `path` within a column of ROW type (NULL where the row is)."""

    column: int
    path: tuple[str, ...] = ()


class Pick:
    """A batch of leaves as columns c0, c1, ...: nothing is computed, and hardly anything copied."""

    def __init__(self, schema: pa.Schema, leaves: Sequence[Leaf]) -> None:
        fields: list[pa.Field] = []
        for leaf in leaves:
            kind = schema.field(leaf.column).type
            for name in leaf.path:
                kind = kind.field(name).type
            fields.append(pa.field(f"c{len(fields)}", kind))
        self.schema = pa.schema(fields)
        self._leaves = tuple(leaves)

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if not self._leaves:
            return rows.select([])
        return pa.RecordBatch.from_arrays([_leaf(rows, leaf) for leaf in self._leaves], schema=self.schema)


def _leaf(rows: pa.RecordBatch, leaf: Leaf) -> pa.Array:
    column = rows.column(leaf.column)
    for name in leaf.path:
        column = pc.struct_field(column, [name])
    return column


class Evaluator(Protocol):
    """Anything that computes output columns from a batch; deterministic unless it says otherwise."""

    schema: pa.Schema

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The output columns for each input row, in order."""


class Program:
    """An evaluator over `context`'s functions.

    Raises (when called):
        DataError: a value cannot be computed (a failed cast, a division by zero, an exception in a user function).
    """

    def __init__(self, context: SessionContext, inputs: pa.Schema, outputs: Sequence[Output]) -> None:
        self.schema = pa.schema([o.field for o in outputs])
        self._outputs = tuple(outputs)
        self._computed = [o for o in outputs if o.sql is not None]
        self._plan = _LivePlan(context, inputs, self._computed) if self._computed else None

    def __call__(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        computed = iter(self._plan.run(rows)) if self._plan is not None else iter(())
        columns = []
        for output in self._outputs:
            column = next(computed) if output.column is None else rows.column(output.column)
            columns.append(column if column.type == output.field.type else column.cast(output.field.type))
        if not columns:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * rows.num_rows, pa.struct([])))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


class _LivePlan:
    """A physical plan over one replaceable batch."""

    def __init__(self, context: SessionContext, inputs: pa.Schema, outputs: Sequence[Output]) -> None:
        names = [f"c{i}" for i in range(len(inputs))]
        self._schema = pa.schema([pa.field(n, f.type) for n, f in zip(names, inputs)])
        self._context = context
        self._table = f"__live_{next(_names)}"
        self._batches: list[pa.RecordBatch] = []
        context.register_dataset(self._table, _LiveDataset(self._schema, lambda: self._batches))
        selected = ", ".join(f'{o.sql} AS "o{i}"' for i, o in enumerate(outputs))
        self._sql = f'SELECT {selected} FROM "{self._table}"'
        self._outputs = outputs
        self._runs = 0
        self._plan: Any = context.sql(self._sql).execution_plan()

    def run(self, rows: pa.RecordBatch) -> list[pa.Array]:
        self._runs += 1
        if self._runs % _RUNS_PER_PLAN == 0:
            self._plan = self._context.sql(self._sql).execution_plan()
        if rows.num_rows == 0:
            return [pa.array([], o.field.type) for o in self._outputs]
        self._batches = [pa.RecordBatch.from_arrays(rows.columns, schema=self._schema)]
        try:
            parts = [part.to_pyarrow() for part in self._context.execute(self._plan, 0)]
        except Exception as error:
            raise DataError("an expression failed", detail=_cause(str(error))) from error
        finally:
            self._batches = []
        whole = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        return list(whole.columns)


def _cause(text: str) -> str:
    """The user's part of a DataFusion error: its last clause, or the Python exception of a function."""
    marker = "value: "
    if "PyErr" in text and marker in text:
        return text[text.index(marker) + len(marker) : text.index(", traceback")]
    return text.removeprefix("DataFusion error: ")


class _LiveDataset(pads.Dataset):  # type: ignore[misc]
    """A duck-typed dataset of one fragment whose batches are asked for at every execution."""

    def __init__(self, schema: pa.Schema, batches: Callable[[], Sequence[pa.RecordBatch]]) -> None:
        self._live_schema = schema
        self._live_batches = batches

    @property
    def schema(self) -> pa.Schema:
        return self._live_schema

    def scanner(self, columns: list[str] | None = None, filter: Any = None, **_: Any) -> _LiveScanner:
        return _LiveScanner(self._live_schema, list, columns)

    def get_fragments(self, filter: Any = None) -> list[_LiveFragment]:
        return [_LiveFragment(self)]

    def live_scanner(self, columns: list[str] | None) -> _LiveScanner:
        return _LiveScanner(self._live_schema, self._live_batches, columns)


class _LiveFragment:
    def __init__(self, dataset: _LiveDataset) -> None:
        self._dataset = dataset

    def scanner(self, schema: pa.Schema, columns: list[str] | None = None, **_: Any) -> _LiveScanner:
        return self._dataset.live_scanner(columns)


class _LiveScanner:
    def __init__(
        self, schema: pa.Schema, batches: Callable[[], Sequence[pa.RecordBatch]], columns: list[str] | None
    ) -> None:
        self._batches = batches
        self._columns = columns
        self.projected_schema = schema if columns is None else pa.schema([schema.field(c) for c in columns])

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches():
            yield batch if self._columns is None else batch.select(self._columns)


def predicate(context: SessionContext, pick: Pick, sql: str) -> Callable[[pa.RecordBatch], pa.BooleanArray]:
    """A mask function for a boolean SQL expression over the leaves of `pick`."""
    program = Program(context, pick.schema, [Output(pa.field("mask", pa.bool_()), sql=sql)])
    return lambda rows: program(pick(rows)).column(0)
