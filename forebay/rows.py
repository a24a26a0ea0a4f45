"""Rows of embedded tables: what INSERT, UPDATE and DELETE change, at once or by a running job."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from sqlglot import exp

from forebay.engine.batch import Batch
from forebay.engine.errors import DataError, SqlError, UnsupportedError, describe_error
from forebay.engine.runtime.driver import Driver
from forebay.engine.runtime.job import Status
from forebay.engine.runtime.outbox import Outlet
from forebay.engine.types import from_arrow
from forebay.planner import statements as st
from forebay.planner.assign import fits
from forebay.planner.catalog import Catalog
from forebay.planner.nodes import Node
from forebay.planner.tables import Table
from forebay.relations import Relations
from forebay.result import Result
from forebay.snapshots import SnapshotQueries


class TableOutlet(Outlet):
    """INSERT INTO an embedded table by a running job: its changes are applied in the next epoch."""

    def __init__(self, table: Table, queue: Callable[[list[Batch]], None]) -> None:
        self._table = table
        self._queue = queue
        self._open: list[Batch] = []

    def take(self, batches: list[Batch], watermark: int | None, epoch: int) -> None:
        for batch in batches:
            _refuse_nulls(self._table, batch.rows)
        self._open.extend(batches)

    def commit(self) -> None:
        if self._open:
            self._queue(self._open)
            self._open = []

    def rollback(self) -> None:
        self._open = []


class TableRows:
    """Changes embedded tables; a change is durable, and shown by every view over the table, when it returns."""

    def __init__(self, driver: Driver, catalog: Catalog, relations: Relations, queries: SnapshotQueries) -> None:
        self.driver = driver
        self.catalog = catalog
        self.relations = relations
        self.queries = queries

    def insert(self, table: Table, node: Node) -> Result:
        """The rows of a snapshot query."""
        with self.driver.boundary():
            rows = self.queries.answer(node)
            return self.write(table.name, rows)

    def update(self, statement: st.Update) -> Result:
        """UPDATE: old rows go, new ones come, in one epoch."""
        table = self._embedded(statement.target)
        names = [c.name for c in table.columns]
        values = dict(statement.assignments)
        for column in values:
            table.column(column)
        olds = [exp.column(n, quoted=True).as_(f"old{i}") for i, n in enumerate(names)]
        news = [values.get(n, exp.column(n, quoted=True)).copy() for n in names]
        query = exp.select(*olds, *(e.as_(f"new{i}") for i, e in enumerate(news))).from_(_table(table.name))
        with self.driver.boundary():
            node = self.relations.binder().bind(_where(query, statement.where), statement.sql)
            rows = self.queries.answer(node)
            width = len(names)
            schema = table.schema()
            old = pa.Table.from_arrays(rows.columns[:width], schema=schema)
            new = self._checked_types(rows, width, table, statement)
            return self.write(table.name, new, old)

    def delete(self, statement: st.Delete) -> Result:
        """DELETE."""
        table = self._embedded(statement.target)
        query = exp.select(*(exp.column(c.name, quoted=True) for c in table.columns)).from_(_table(table.name))
        with self.driver.boundary():
            node = self.relations.binder().bind(_where(query, statement.where), statement.sql)
            rows = self.queries.answer(node)
            old = pa.Table.from_arrays(rows.columns, schema=table.schema())
            return self.write(table.name, old.slice(0, 0), old)

    def write(self, name: str, puts: pa.Table, takes: pa.Table | None = None) -> Result:
        """Change an embedded table: first rows that go, then rows that come."""
        _refuse_nulls(self.catalog.table(name), puts)
        parts = [t for t in (takes, puts) if t is not None and t.num_rows]
        if not parts:
            return Result(message="0 rows changed", rowcount=0)
        whole = pa.concat_tables([p.cast(puts.schema) for p in parts]).combine_chunks()
        gone = takes.num_rows if takes is not None else 0
        weights = np.ones(whole.num_rows, np.int64)
        weights[:gone] = -1
        failed = self.driver.feed(name, Batch(whole.to_batches()[0], weights))
        result = Result(message=f"{max(puts.num_rows, gone)} rows changed", rowcount=max(puts.num_rows, gone))
        late = [j for j in self.driver.jobs.values() if j.status in (Status.FAILED, Status.RESTARTING)]
        result.warnings += [
            f"job {j.name} does not show it: {describe_error(j.error)}"
            for j in late
            if j.error is not None and (j.name in failed or name in self.catalog.jobs[j.name].reads)
        ]
        return result

    def _checked_types(self, rows: pa.Table, width: int, table: Table, statement: st.Update) -> pa.Table:
        columns = []
        for column, field in zip(rows.columns[width:], table.schema()):
            have, want = column.type, field.type
            if not fits(have, want) and not (pa.types.is_integer(have) and pa.types.is_integer(want)):
                raise SqlError(
                    f"column {field.name} of {table.name} is {from_arrow(want)}, the value is {from_arrow(have)}",
                    sql=statement.sql,
                    hint=f"write CAST(... AS {from_arrow(want)})",
                )
            try:
                columns.append(_fitted(column, want))
            except pa.ArrowInvalid as error:
                raise SqlError(f"column {field.name} is {from_arrow(want)}: {error}", sql=statement.sql) from error
        return pa.Table.from_arrays(columns, schema=table.schema())

    def _embedded(self, name: str) -> Table:
        table = self.catalog.table(name)
        if not table.embedded:
            raise UnsupportedError(
                f"{name} belongs to connector '{table.options['connector']}': rows in it cannot be updated or deleted",
                hint="UPDATE and DELETE work on embedded tables (no 'connector' option)",
            )
        return table


def _refuse_nulls(table: Table, rows: pa.Table | pa.RecordBatch) -> None:
    for column, field in zip(rows.columns, table.schema()):
        if not field.nullable and column.null_count:
            raise DataError(f"column {field.name} of {table.name} is NOT NULL", detail="a row has NULL there")


def _fitted(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The column as another type, if each value fits."""
    if pa.types.is_decimal(kind) and pa.types.is_integer(column.type):  # Arrow asks whether every integer would fit
        column = column.cast(pa.decimal128(38, kind.scale))
    return column.cast(kind)


def _table(name: str) -> exp.Table:
    return exp.Table(this=exp.to_identifier(name, quoted=True))


def _where(query: exp.Select, condition: exp.Expression | None) -> exp.Select:
    return query if condition is None else query.where(condition.copy())
