"""INSERT and STATEMENT SET: rows that are there now go in at once, a query over tables that go on becomes a job."""

from __future__ import annotations

import pyarrow as pa

from forebay.context import Context
from forebay.engine.errors import ForebayError
from forebay.planner import statements as st
from forebay.planner.assign import assigned
from forebay.planner.binder import notices
from forebay.planner.constants import rows_of
from forebay.planner.nodes import Node, Scan
from forebay.planner.tables import Table
from forebay.plans import Plans, tables_of
from forebay.querying import Querying
from forebay.result import Result
from forebay.rows import TableRows
from forebay.running import Running


class Inserting:
    """Carries out INSERTs in one warehouse."""

    def __init__(self, context: Context, plans: Plans, rows: TableRows, querying: Querying, running: Running) -> None:
        self._context = context
        self._plans = plans
        self._rows = rows
        self._querying = querying
        self._running = running

    def insert(self, statement: st.Insert) -> Result:
        """One INSERT."""
        table = self._context.catalog.table(statement.target)
        if self._context.options.get("execution.runtime-mode") == "batch":
            return self._insert_batch(statement, table)
        node = self._plans.assigned(statement, table)
        if table.embedded and self._rows.queries.can_answer(node):
            return self._rows.insert(table, node)
        name = self._running.free_name(f"insert_into_{table.name}")
        if not tables_of(node):
            return self._insert_to_end(name, statement, node)
        result = self._running.start(name, statement.sql, (statement,))
        result.warnings += notices(statement.query)
        return result

    def insert_constants(self, statement: st.InsertConstants) -> Result:
        """Many constants. Where their types can be told from some of the rows the others are not planned."""
        rows = self._constants(statement)
        if rows is not None:
            return self._rows.write(statement.sample.target, rows)
        whole = statement.whole()
        assert isinstance(whole, st.Insert)
        return self.insert(whole)

    def _constants(self, statement: st.InsertConstants) -> pa.Table | None:
        """The rows for an embedded table; None where the statement has to be planned as it is written."""
        insert, batch = statement.sample, self._context.options.get("execution.runtime-mode") == "batch"
        table = self._context.catalog.relations.get(insert.target)
        if not isinstance(table, Table) or not table.embedded or batch:
            return None
        try:
            query = self._plans.bind(insert.query, insert.sql)
            rows = rows_of(statement.constants, query.schema)
            if rows is None:
                return None
            scan = Scan(rows.schema, "constants", tuple(rows.schema.names))
            node = assigned(scan, table.name, table.writable(), insert.columns or None, insert.sql)
            return self._rows.queries.over(node, rows)
        except ForebayError:
            return None  # planned as it is written it fails as well, and the error tells where

    def insert_set(self, statement: st.StatementSet) -> Result:
        """Several INSERTs as one job."""
        targets = dict.fromkeys(i.target for i in statement.inserts)
        name = self._running.free_name("insert_into_" + "_".join(targets))
        return self._running.start(name, statement.sql, statement.inserts)

    def _insert_batch(self, statement: st.Insert, table: Table) -> Result:
        """The query's rows as they are now, into any table; a query may do all that a snapshot query may."""
        rows = self._querying.rows(statement.sql, statement.query)
        name = self._running.free_name(f"insert_into_{table.name}")
        aside, registered = f"__rows_of_{name}", self._context.relations.registered
        registered[aside] = rows
        try:
            scan = Scan(rows.schema, aside, tuple(rows.schema.names))
            node = assigned(scan, table.name, table.writable(), statement.columns or None, statement.sql)
            if table.embedded:
                return self._rows.insert(table, node)
            return self._insert_to_end(name, statement, node)
        finally:
            del registered[aside]

    def _insert_to_end(self, name: str, statement: st.Insert, node: Node) -> Result:
        """Bounded rows into a connector's table: the job is over, its rows committed, when the statement returns."""
        self._context.check_running()
        count = self._running.to_end(name, self._plans.job(name, [statement], [node]))
        return Result(message=f"{count} rows inserted", rowcount=count)
