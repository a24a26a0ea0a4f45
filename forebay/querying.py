"""Queries: answered once, or followed as a stream.

What the warehouse holds is read as it is between two epochs. A bounded table of a connector is read by a job of its own to its
end first; a stream is such a job that has no end. These jobs are in no catalog, and are gone with whoever asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
from sqlglot import exp

from forebay.context import Context
from forebay.engine.batch import Batch
from forebay.engine.consolidate import consolidate
from forebay.engine.errors import CatalogError, describe_error
from forebay.engine.runtime.job import Status
from forebay.engine.runtime.outbox import Outlet, StreamOutlet
from forebay.engine.runtime.plan import JobPlan
from forebay.engine.serve.snapshot import expand
from forebay.planner import statements as st
from forebay.planner.nodes import Node, Scan
from forebay.planner.physical import Lowering
from forebay.planner.tables import View
from forebay.plans import Plans, tables_of
from forebay.refresh import Refresher
from forebay.result import ChangeStream, Result
from forebay.snapshots import SnapshotQueries, refuse_unbounded


class Querying:
    """Answers queries of one warehouse."""

    def __init__(self, context: Context, plans: Plans, snapshots: SnapshotQueries, refresher: Refresher) -> None:
        self._context = context
        self._driver = context.driver
        self._plans = plans
        self._snapshots = snapshots
        self._refresher = refresher
        self._jobs = 0

    def query(self, statement: st.Query) -> Result:
        """The rows, and of which views they may be behind."""
        node = self._snapshots.plan(statement)
        result = Result(self._snapshots.query(node, self._collect))
        result.warnings += [f"{n} is out of date: {describe_error(e)}" for n in tables_of(node) if (e := self._lag(n))]
        return result

    def rows(self, sql: str, query: exp.Expression) -> pa.Table:
        """The rows of a query that is part of the statement `sql`."""
        return self._snapshots.query(self._snapshots.plan(st.Query(sql=sql, query=query)), self._collect)

    def lookup(self, relation: str, key: Any) -> dict[str, Any] | None:
        """A row by primary key."""
        found = self._context.catalog.find(relation)
        if isinstance(found, View) or not found.primary_key:
            raise CatalogError(
                f"{relation} has no key to look rows up by",
                hint="a materialized view has one if its query groups by it",
            )
        return self._snapshots.lookup(relation, found.primary_key, key)

    def _lag(self, view: str) -> Exception | None:
        """Why a materialized view does not show what its inputs hold, if its job or last refresh failed."""
        job = self._driver.jobs.get(view)
        behind = job is not None and job.status in (Status.FAILED, Status.RESTARTING)
        return job.error if job is not None and behind else self._refresher.errors.get(view)

    # -- jobs that queries need ---------------------------------------------------------------------------------

    def stream(self, statement: st.Query, sql: str) -> ChangeStream:
        """A continuous query."""
        node = self._plans.bind(statement.query, sql)
        names: list[str] = []

        def over() -> tuple[bool, Exception | None]:
            job = self._driver.jobs.get(names[0])
            if self._driver.fatal is not None or job is None:
                return True, self._driver.fatal
            return not job.alive, job.error

        stream = ChangeStream(node.schema, lambda: self._driver.detach(names[0]), over)
        lowering = self._plans.lowering(node, replay=True)
        names.append(self._start(node, lowering, lambda: StreamOutlet(stream.deliver, stream.end)))
        return stream

    def _collect(self, scan: Scan) -> pa.Table:
        """The rows of a bounded connector table, read by a job to its end."""
        if not scan.columns:  # a batch without columns cannot say how many rows it has
            first = self._context.relations.schema(scan.table).field(0)
            scan = replace(scan, columns=(first.name,), schema=pa.schema([first]))
            return self._collect(scan).select([])
        lowering = self._plans.lowering(scan, replay=True)
        if not lowering.traits[id(scan)].bounded:
            raise refuse_unbounded(scan.table)
        self._context.check_running()
        got: list[Batch] = []
        name = self._start(scan, lowering, lambda: StreamOutlet(got.extend, lambda: None))
        try:
            self._context.wait(lambda: not self._driver.jobs[name].alive)
            job = self._driver.jobs[name]
            if job.status is Status.FAILED and job.error is not None:
                raise job.error
        finally:
            self._driver.detach(name)
        net = consolidate(got)
        rows = [] if net is None else [expand(net)]
        schema = scan.schema
        return pa.Table.from_batches([pa.RecordBatch.from_arrays(r.columns, schema=schema) for r in rows], schema)

    def _start(self, node: Node, lowering: Lowering, outlet: Callable[[], Outlet]) -> str:
        self._jobs += 1
        name = f"query-{self._jobs}"
        self._context.attach(name, JobPlan((lowering.output(name, node, outlet),)), None, {})
        return name
