"""CREATE, ALTER and DROP of tables and views: a definition is checked, entered and durable when its statement returns.

An embedded table is a node of the dataflow with its rows; a connector's table and a plain view are definitions only. Jobs that
run keep what they were bound to (`bound`), but for how long they keep a table's rows: that follows the table.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from forebay.bound import rebound
from forebay.context import Context
from forebay.engine.errors import CatalogError, SqlError, UnsupportedError
from forebay.engine.operators.table import TableOperator
from forebay.histories import Histories
from forebay.keeping import Keeping
from forebay.planner import statements as st
from forebay.planner.define import altered, define
from forebay.planner.dialect.script import parse
from forebay.planner.tableoptions import STATE_KEEP, STATE_TTL, state_ttl
from forebay.planner.tables import MaterializedView, Table, View
from forebay.refresh import Refresher
from forebay.result import Result
from forebay.rows import TableRows
from forebay.running import Running


class Defining:
    """Defines what one warehouse's relations are."""

    def __init__(
        self,
        context: Context,
        rows: TableRows,
        keeping: Keeping,
        histories: Histories,
        running: Running,
        refresher: Refresher,
    ) -> None:
        self._context = context
        self._driver = context.driver
        self._catalog = context.catalog
        self._relations = context.relations
        self._registry = context.registry
        self._rows = rows
        self._keeping = keeping
        self._histories = histories
        self._running = running
        self._refresher = refresher

    # -- create -------------------------------------------------------------------------------------------------

    def create_table(self, statement: st.CreateTable) -> Result:
        """CREATE TABLE."""
        if statement.if_not_exists and statement.name in self._catalog.relations:
            return Result(message=f"table {statement.name} exists already")
        table = define(statement, self._catalog, self._registry, self._relations.types)
        self._check_use(table)
        self._add(table)
        self._context.save()
        return Result(message=f"table {table.name} created")

    def create_view(self, statement: st.CreateView) -> Result:
        """CREATE VIEW."""
        if statement.if_not_exists and statement.name in self._catalog.relations:
            return Result(message=f"view {statement.name} exists already")
        node = self._relations.binder().bind(statement.query, statement.sql)
        if statement.columns and len(statement.columns) != len(node.schema):
            raise SqlError(
                f"{len(statement.columns)} column names are given, the query has {len(node.schema)} columns",
                sql=statement.sql,
            )
        view = View.of(statement)
        known = self._catalog.relations.get(view.name)
        self._catalog.add(view, replace_=statement.replace and isinstance(known, View))
        self._context.save()
        return Result(message=f"view {view.name} created")

    def reopen(self, statement: st.CreateTable | st.CreateView) -> None:
        """Enter a saved definition again; a checkpoint brings the rows of an embedded table."""
        if isinstance(statement, st.CreateView):
            self._catalog.add(View.of(statement))
        else:
            self._add(define(statement, self._catalog, self._registry, self._relations.types))

    def view_schema(self, view: View) -> pa.Schema:
        """The columns that a view gives now."""
        query = parse(view.sql)[0]
        assert isinstance(query, st.Query)
        schema = self._relations.binder().bind_batch(query.query, query.sql).schema
        return pa.schema([f.with_name(n) for f, n in zip(schema, view.columns or schema.names)])

    def _check_use(self, table: Table) -> None:
        """Make what a query would read the table with: an option that does not fit is told now, not at the first use."""
        if not table.embedded and self._registry.connector(table.options["connector"]).source is not None:
            self._relations.reading(table)
        elif not table.embedded:
            self._relations.bootstrap(table)

    def _add(self, table: Table) -> None:
        self._catalog.add(table)
        if table.embedded:
            self._add_rows(table)

    def _add_rows(self, table: Table) -> None:
        """Put the node of an embedded table into the dataflow, empty."""
        schema = table.schema()
        key = tuple(schema.get_field_index(k) for k in table.primary_key)
        with self._driver.boundary() as flow:
            flow.add_relation(table.name, TableOperator(schema, key))
        self._rows.queries.snapshots.forget(table.name)

    # -- drop ---------------------------------------------------------------------------------------------------

    def drop(self, statement: st.Drop) -> Result:
        """DROP TABLE, VIEW and MATERIALIZED VIEW."""
        name, kind = statement.name, statement.kind
        if name not in self._catalog.relations and statement.if_exists:
            return Result(message=f"there is no {kind.lower()} {name}")
        found = self._catalog.drop(kind, name)
        self._keeping.release(name)
        self._histories.forget(name)
        if isinstance(found, MaterializedView) and not found.scheduled:
            self._running.detach(name)
        elif isinstance(found, MaterializedView) or (isinstance(found, Table) and found.embedded):
            self._refresher.remove(name)
            with self._driver.boundary() as flow:
                flow.drop_relation(name)
        self._rows.queries.snapshots.forget(name)
        self._context.save()
        return Result(message=f"{kind.lower()} {name} dropped")

    # -- alter --------------------------------------------------------------------------------------------------

    def alter_table(self, statement: st.AlterTable) -> Result:
        """ALTER TABLE."""
        table = self._catalog.table(statement.name)
        changed = altered(table, statement, self._registry, self._relations.types)
        self._check_use(changed)
        if table.embedded and statement.action not in ("RENAME TO", "SET", "RESET"):
            self._alter_embedded(table, changed, statement)
        elif table.embedded and statement.action == "RENAME TO":
            raise UnsupportedError(
                "an embedded table cannot be renamed", hint="CREATE the new table and INSERT INTO it"
            )
        if changed.name != table.name and changed.name in self._catalog.relations:
            raise CatalogError(f"{changed.name} already exists")
        if changed.name != table.name:
            del self._catalog.relations[table.name]
        self._catalog.relations[changed.name] = changed
        if changed.name != table.name or changed.options.get(STATE_KEEP.name) != "true":
            self._keeping.release(table.name)
        message = f"table {table.name} altered" + self._follow_ttl(table, changed)
        self._context.save()
        return Result(message=message)

    def _follow_ttl(self, table: Table, changed: Table) -> str:
        """Jobs that run keep the table's rows as its option says now; what to tell of those that cannot."""
        ttl = state_ttl(changed.options)
        if ttl == state_ttl(table.options):
            return ""
        micros = self._context.options.micros("table.exec.state.ttl") if ttl is None else ttl * 1000
        with self._driver.boundary() as flow:
            stuck = flow.set_ttl(table.name, micros or None)
        for name, job in self._catalog.jobs.items():
            if table.name in job.bound and name not in stuck:
                now = {STATE_TTL.name: f"{micros // 1000} ms"}
                bound = rebound(job.bound[table.name], now, self._relations)
                self._catalog.jobs[name] = replace(job, bound={**job.bound, table.name: bound})
        if not stuck or not micros:
            return ""
        return f"; jobs that keep no time of its rows follow when they are made again: {', '.join(sorted(stuck))}"

    def _alter_embedded(self, table: Table, changed: Table, statement: st.AlterTable) -> None:
        """Rebuild an embedded table under its new columns; nothing may be reading it."""
        readers = self._catalog.users(table.name)
        if readers:
            raise UnsupportedError(
                f"{table.name} is read by {', '.join(readers)}",
                hint="drop them first, alter the table, create them again",
            )
        rows = self._rows.queries.contents(table.name)
        old_names = dict(zip(statement.names[1:], statement.names[:1])) if statement.action == "RENAME COLUMN" else {}
        columns = []
        for field in changed.schema():
            source = old_names.get(field.name, field.name)
            known = rows.schema.get_field_index(source) >= 0
            columns.append(rows.column(source).cast(field.type) if known else pa.nulls(rows.num_rows, field.type))
        with self._driver.boundary() as flow:
            flow.drop_relation(table.name)
            self._add_rows(changed)
            self._catalog.relations[table.name] = changed
            self._rows.write(table.name, pa.Table.from_arrays(columns, schema=changed.schema()))
