"""CREATE MATERIALIZED VIEW: a query whose result is kept, by a job of the view's name or anew at intervals ('refresh.interval').

A view is in the catalog only if its rows are, or are on their way. A scheduled one is an embedded table underneath: each refresh
applies the difference to what it showed, so those who read it see a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from forebay.context import Context
from forebay.engine.batch import Batch
from forebay.engine.connector import Option, check_options
from forebay.engine.consolidate import consolidate
from forebay.engine.errors import CatalogError, OptionError, SqlError
from forebay.engine.operators.table import TableOperator
from forebay.planner import statements as st
from forebay.planner.binder import notices
from forebay.planner.options import duration
from forebay.planner.tables import MaterializedView
from forebay.plans import Plans, tables_of
from forebay.querying import Querying
from forebay.refresh import OPTION as REFRESH_INTERVAL
from forebay.refresh import Refresher
from forebay.result import Result
from forebay.running import Running
from forebay.snapshots import SnapshotQueries


class Materializing:
    """Makes the materialized views of one warehouse."""

    def __init__(
        self,
        context: Context,
        plans: Plans,
        snapshots: SnapshotQueries,
        querying: Querying,
        running: Running,
        refresher: Refresher,
    ) -> None:
        self._context = context
        self._catalog = context.catalog
        self._plans = plans
        self._snapshots = snapshots
        self._querying = querying
        self._running = running
        self._refresher = refresher

    def create(self, statement: st.CreateMaterializedView) -> Result:
        """Make a view, with the rows that its query gives now or as they come."""
        if statement.if_not_exists and statement.name in self._catalog.relations:
            return Result(message=f"materialized view {statement.name} exists already")
        if statement.name in self._catalog.relations:
            raise CatalogError(
                f"{statement.name} already exists", hint="CREATE MATERIALIZED VIEW IF NOT EXISTS, or DROP it first"
            )
        known = [Option(REFRESH_INTERVAL, "how often")]
        check_options(statement.options, known, (), f"materialized view '{statement.name}'")
        if statement.options:
            self._schedule(statement, fill=True)
        else:
            self._materialize(statement, None, {})
        self._context.save()
        result = Result(message=f"materialized view {statement.name} created")
        result.warnings += notices(statement.query)
        return result

    def reopen(
        self, statement: st.CreateMaterializedView, placement: Mapping[str, str] | None, scans: Mapping[str, Any]
    ) -> None:
        """Make a saved view again; a checkpoint brings its rows."""
        if statement.options:
            self._schedule(statement, fill=False)
        else:
            self._materialize(statement, placement, scans)

    # -- continuous ---------------------------------------------------------------------------------------------

    def _materialize(
        self, statement: st.CreateMaterializedView, placement: Mapping[str, str] | None, scans: Mapping[str, Any]
    ) -> None:
        name = statement.name
        node, plan, key = self._plans.view(name, statement.query, statement.sql, statement.columns)
        view = MaterializedView(
            name, statement.query_sql, node.schema, key, statement.columns, statement.options, statement.comment
        )
        self._context.attach(name, plan, placement, scans)
        self._catalog.add(view)
        self._running.define(name, statement.sql, [node], (name,))
        self._snapshots.snapshots.forget(name)

    # -- scheduled ----------------------------------------------------------------------------------------------

    def _schedule(self, statement: st.CreateMaterializedView, *, fill: bool) -> None:
        """A view that is refreshed at intervals; with `fill` its rows are made now, else a checkpoint brings them."""
        name = statement.name
        seconds = duration(statement.options[REFRESH_INTERVAL]) / 1e6
        if seconds <= 0:
            raise OptionError(f"option '{REFRESH_INTERVAL}' must be more than 0")
        view = self._scheduled(statement)

        def refresh() -> None:
            with self._context.lock:
                if self._catalog.relations.get(name) is view:
                    self._refresh(view, statement)

        self._catalog.add(view)
        with self._context.driver.boundary() as flow:
            flow.add_relation(name, TableOperator(view.schema, ()))
        self._snapshots.snapshots.forget(name)
        if fill:
            try:
                self._refresh(view, statement)
            except BaseException:
                del self._catalog.relations[name]
                self._refresher.remove(name)
                with self._context.driver.boundary() as flow:
                    flow.drop_relation(name)
                raise
        self._refresher.add(name, seconds, refresh)

    def _scheduled(self, statement: st.CreateMaterializedView) -> MaterializedView:
        node = self._context.relations.binder().bind_batch(statement.query, statement.sql)
        names = statement.columns or tuple(node.schema.names)
        if len(names) != len(node.schema):
            raise SqlError(f"{len(names)} column names are given, the query has {len(node.schema)} columns")
        schema = pa.schema([f.with_name(n).with_nullable(True) for f, n in zip(node.schema, names)])
        return MaterializedView(
            statement.name,
            statement.query_sql,
            schema,
            (),
            statement.columns,
            statement.options,
            statement.comment,
            tables_of(node),
        )

    def _refresh(self, view: MaterializedView, statement: st.CreateMaterializedView) -> None:
        """Apply the difference between what the view shows and what its query gives now."""
        fresh = self._querying.rows(statement.sql, statement.query)
        if self._catalog.relations.get(view.name) is not view:  # dropped while its query was answered
            return
        rows = pa.Table.from_arrays(fresh.columns, schema=view.schema).combine_chunks().to_batches()
        shown = self._snapshots.contents(view.name).combine_chunks().to_batches()
        net = consolidate([*(Batch(b).negate() for b in shown), *map(Batch, rows)])
        if net is not None:
            self._context.driver.feed(view.name, net)
