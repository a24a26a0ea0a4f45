"""Queries that are answered once: by DataFusion, over the contents of relations pinned at one epoch.

Registered objects and bounded connector tables take part too: a connector's table is read to its end first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyarrow as pa

from forebay.engine.errors import CatalogError, UnboundedError
from forebay.engine.operators.join import ArrangeOperator
from forebay.engine.runtime.driver import Driver
from forebay.engine.serve.inspect import find_state
from forebay.engine.serve.snapshot import Snapshots, canonical_floats
from forebay.planner import statements as st
from forebay.planner.expr import Binary, Column, Expr, Literal
from forebay.planner.functions import CLOCK, query_context
from forebay.planner.messages import explained
from forebay.planner.nodes import Filter, Node, Scan
from forebay.planner.plansql import plan_to_sql
from forebay.planner.render import identifier
from forebay.planner.tables import MaterializedView, Table
from forebay.relations import STATES, Relations

LEAST = 128 << 20
"""Bytes that a query may read of one relation, and twice what it may work with, under the smallest budget."""
_numbers = itertools.count()


class SnapshotQueries:
    """Answers queries over what the warehouse holds now."""

    def __init__(self, driver: Driver, relations: Relations, aside: Callable[[], AbstractContextManager[None]]) -> None:
        """Within `aside()` other statements go on while DataFusion works."""
        self._driver = driver
        self._aside = aside
        self._relations = relations
        self.snapshots = Snapshots(lambda: max(driver.budget.limit // 2, LEAST))
        driver.budget.holders["snapshots"] = self.snapshots

    def plan(self, statement: st.Query) -> Node:
        """The plan of a SELECT that is answered once.

        Raises:
            SqlError: the query is wrong.
        """
        return self._relations.binder().bind_batch(statement.query, statement.sql)

    def query(self, node: Node, collect: Callable[[Scan], pa.Table]) -> pa.Table:
        """The rows of a `plan`; `collect` reads a bounded connector table.

        Raises:
            UnsupportedError: it reads an input that never ends.
        """
        scans = list(scans_of(node))
        collected = {id(s): canonical_floats(collect(s)) for s in scans if not self.holds(s)}
        wanted = dict(key_values(node))
        with self._driver.boundary():
            pinned = {id(s): self._pinned(s, wanted.get(id(s))) for s in scans if self.holds(s)}
        with self._aside():
            return self._run(node, {**collected, **pinned})

    def holds(self, scan: Scan) -> bool:
        """Whether the warehouse itself has the rows of a scan."""
        relation = self._relations.catalog.relations.get(scan.table)
        if relation is None and scan.table.startswith(STATES):
            return True
        held = isinstance(relation, MaterializedView) or (isinstance(relation, Table) and relation.embedded)
        return held or scan.table in self._relations.registered

    def can_answer(self, node: Node) -> bool:
        """Whether `answer` can: every scan is held."""
        return all(self.holds(s) for s in scans_of(node))

    def answer(self, node: Node) -> pa.Table:
        """The rows of a plan over held relations, now. Call it within the driver's boundary."""
        return self._run(node, {id(s): self._pinned(s) for s in scans_of(node)})

    def over(self, node: Node, rows: pa.Table) -> pa.Table:
        """The rows of a plan all of whose scans read these."""
        return self._run(node, {id(s): rows.select(list(s.columns)) for s in scans_of(node)})

    def contents(self, name: str) -> pa.Table:
        """All rows of an embedded table or materialized view."""
        with self._driver.boundary() as flow:
            return self.snapshots.pin(flow, [name])[name]

    def lookup(self, name: str, primary_key: Sequence[str], key: Any) -> dict[str, Any] | None:
        """The row under a primary key, read from the relation's index.

        Raises:
            CatalogError: the key does not fit the columns.
        """
        wrong = CatalogError(f"the key of {name} is ({', '.join(primary_key)})", detail=f"given: {key!r}")
        given = key if isinstance(key, tuple) else (key,)
        values = key if isinstance(key, Mapping) else dict(zip(primary_key, given))
        if set(values) != set(primary_key) or len(given) > len(primary_key):
            raise wrong
        with self._driver.boundary() as flow:
            operator = flow.relation(name).operator
            assert isinstance(operator, ArrangeOperator)
            arrangement = operator.arrangement
            fields = [arrangement.schema.field(k) for k in arrangement.key]
            try:
                probe = [pa.array([values[f.name]], f.type) for f in fields]
            except (pa.ArrowException, TypeError) as error:
                raise wrong from error
            rows = arrangement.lookup(pa.RecordBatch.from_arrays(probe, schema=pa.schema(fields)))
        found: list[dict[str, Any]] = rows.to_pylist()
        return found[0] if found else None

    def _pinned(self, scan: Scan, key: Mapping[str, pa.Scalar] | None = None) -> pa.Table:
        registered = self._relations.registered.get(scan.table)
        if scan.table.startswith(STATES) and registered is None and scan.table not in self._relations.catalog.relations:
            with self._driver.boundary() as flow:
                rows = find_state(flow, scan.table.removeprefix(STATES)).rows(key)
            return canonical_floats(rows).select(list(scan.columns))
        table = registered if registered is not None else self.contents(scan.table)
        return table.select(list(scan.columns))

    def _run(self, node: Node, tables: Mapping[int, pa.Table]) -> pa.Table:
        CLOCK.set(self._driver.clock.now())
        context = query_context(max(self._driver.budget.limit // 4, LEAST // 2))
        with self.snapshots.reading(tables.values()), _registered(context, tables) as names:
            sql = plan_to_sql(node, lambda scan: identifier(names[id(scan)]))
            try:
                rows = context.sql(sql).to_arrow_table()
            except Exception as error:
                raise explained(str(error), None) from error
        columns = [c if c.type == f.type else c.cast(f.type) for c, f in zip(rows.columns, node.schema)]
        return pa.Table.from_arrays(columns, schema=pa.schema([f.with_nullable(True) for f in node.schema]))


@contextmanager
def _registered(context: Any, tables: Mapping[int, pa.Table]) -> Iterator[dict[int, str]]:
    """The tables under names of their own while the query runs."""
    names = {key: f"__snapshot_{next(_numbers)}" for key in tables}
    try:
        for key, table in tables.items():
            batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
            context.register_record_batches(names[key], [batches])
        yield names
    finally:
        for name in names.values():
            context.deregister_table(name)


def scans_of(node: Node) -> Iterator[Scan]:
    """The leaves of a plan that read relations."""
    if isinstance(node, Scan):
        yield node
    for source in node.inputs:
        yield from scans_of(source)


def key_values(node: Node) -> Iterator[tuple[int, dict[str, pa.Scalar]]]:
    """Per scan (by `id`) under a filter, what the filter says that its columns are equal to."""
    if isinstance(node, Filter) and isinstance(node.input, Scan):
        scan, found = node.input, {}
        for term in _conjuncts(node.predicate):
            match term:
                case Binary("=", Column(index), Literal(value, kind)) | Binary(
                    "=", Literal(value, kind), Column(index)
                ):
                    found[scan.columns[index]] = pa.scalar(value, kind)
        yield id(scan), found
    for source in node.inputs:
        yield from key_values(source)


def _conjuncts(predicate: Expr) -> Iterator[Expr]:
    if isinstance(predicate, Binary) and predicate.op == "AND":
        yield from _conjuncts(predicate.left)
        yield from _conjuncts(predicate.right)
    else:
        yield predicate


def refuse_unbounded(name: str) -> UnboundedError:
    """The error of a SELECT over an input that never ends."""
    return UnboundedError(
        f"{name} never ends: a query over it has no final answer",
        hint="stream it: Connection.stream(query); or keep its result: CREATE MATERIALIZED VIEW v AS ...",
    )
