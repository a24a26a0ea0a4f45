"""The executor: every kind of statement has a method here, which says who carries it out.

Those who do are made here only, each from those before it: queries, the life of jobs, INSERT, definitions, opening a warehouse.
"""

from __future__ import annotations

import functools
from typing import Any

import pyarrow as pa

from forebay.changing import Changing
from forebay.context import Context
from forebay.defining import Defining
from forebay.engine.errors import CatalogError, SqlError, UnsupportedError
from forebay.engine.runtime import deadletters
from forebay.engine.serve.snapshot import canonical_floats
from forebay.explaining import Explaining
from forebay.histories import Histories
from forebay.inserting import Inserting
from forebay.keeping import Keeping
from forebay.matching import Key
from forebay.materializing import Materializing
from forebay.planner import statements as st
from forebay.planner.dialect.script import parse
from forebay.planner.options import SESSION_OPTIONS
from forebay.plans import Plans
from forebay.querying import Querying
from forebay.refresh import Refresher
from forebay.reopening import Reopening
from forebay.result import ChangeStream, Result, as_table
from forebay.rows import TableRows
from forebay.running import Running
from forebay.saving import Saving
from forebay.show import Shows
from forebay.snapshots import SnapshotQueries
from forebay.tap import collected, follow
from forebay.trace import trace
from forebay.udfs import register_udf


class Executor:
    """Carries statements out against one warehouse. Callers hold the connection's `lock`."""

    def __init__(self, context: Context) -> None:
        driver, catalog, relations = context.driver, context.catalog, context.relations
        self._context = context
        self.queries = SnapshotQueries(driver, relations, context.aside)
        self.refresher = Refresher(driver.clock.monotonic)
        self.saving = Saving(context.warehouse, context.saved, context.aside)
        plans = Plans(context)
        keeping = Keeping(context, plans.lowering)
        self._rows = TableRows(driver, catalog, relations, self.queries)
        self._changing = Changing(context, plans, self._altered)
        self._explaining = Explaining(context, plans, self._changing)
        self._histories = Histories(context, plans, keeping, self.refresher)
        self._querying = Querying(context, plans, self.queries, self.refresher)
        self._running = Running(context, plans, keeping, self._histories)
        self._inserting = Inserting(context, plans, self._rows, self._querying, self._running)
        self._materializing = Materializing(context, plans, self.queries, self._querying, self._running, self.refresher)
        self._defining = Defining(context, self._rows, keeping, self._histories, self._running, self.refresher)
        reopening = Reopening(context, self._defining, self._materializing, self._running, keeping, self._histories)
        self.open = reopening.open
        self.jobs = self._running.jobs
        self.caught_up = self._running.caught_up
        self.lookup = self._querying.lookup
        self._shows = Shows(catalog, driver, self.jobs, self._defining.view_schema)
        relations.states = self._shows.state_schemas
        with driver.boundary() as flow:
            flow.add_relation(deadletters.NAME, deadletters.DeadLetterOperator())

    @functools.singledispatchmethod
    def run(self, statement: st.Statement) -> Result:
        """Carry out one statement."""
        raise UnsupportedError(f"{type(statement).__name__} is not supported")

    # -- relations ----------------------------------------------------------------------------------------------

    @run.register
    def _create_table(self, statement: st.CreateTable) -> Result:
        return self._defining.create_table(statement)

    @run.register
    def _create_view(self, statement: st.CreateView) -> Result:
        return self._defining.create_view(statement)

    @run.register
    def _create_materialized_view(self, statement: st.CreateMaterializedView) -> Result:
        return self._materializing.create(statement)

    @run.register
    def _alter_table(self, statement: st.AlterTable) -> Result:
        return self._defining.alter_table(statement)

    @run.register
    def _alter_materialized_view(self, statement: st.AlterMaterializedView) -> Result:
        return self._changing.alter_view(statement)

    @run.register
    def _drop(self, statement: st.Drop) -> Result:
        match statement.kind:
            case "SAVEPOINT":
                return self.saving.drop(statement.name, statement.if_exists)
            case "JOB":
                return self._running.drop(statement.name, statement.if_exists)
            case "FUNCTION":
                raise UnsupportedError("functions live as long as the process", hint="define it again to replace it")
        return self._defining.drop(statement)

    def register(self, name: str, data: Any) -> None:
        """An object in memory as a table."""
        if name in self._context.catalog.relations:
            raise CatalogError(f"{name} already exists")
        self._context.relations.registered[name] = canonical_floats(as_table(data))

    def create_function(self, function: Any) -> None:
        """A user's scalar function."""
        register_udf(function)

    # -- jobs ---------------------------------------------------------------------------------------------------

    @run.register
    def _insert(self, statement: st.Insert) -> Result:
        return self._inserting.insert(statement)

    @run.register
    def _insert_constants(self, statement: st.InsertConstants) -> Result:
        return self._inserting.insert_constants(statement)

    @run.register
    def _statement_set(self, statement: st.StatementSet) -> Result:
        return self._inserting.insert_set(statement)

    @run.register
    def _alter_job(self, statement: st.AlterJob) -> Result:
        return self._changing.alter_job(statement)

    def _altered(self, name: str) -> None:
        """A job runs another statement: durable, with the state that it goes on from, on return."""
        self._context.driver.savepoint(lambda checkpoint: None)
        self.queries.snapshots.forget(name)
        self._context.save()

    @run.register
    def _control_job(self, statement: st.ControlJob) -> Result:
        return self._running.control(statement)

    @run.register
    def _call(self, statement: st.Call) -> Result:
        loading = self._histories.begin(statement)
        if not self._histories.over(loading) and not self._context.driver.running:
            return Result(message=f"the history of {loading.table} is loaded once the warehouse runs")
        self._context.wait(lambda: self._histories.over(loading))
        return self._histories.result(loading)

    @run.register
    def _create_savepoint(self, statement: st.CreateSavepoint) -> Result:
        return self.saving.create(statement)

    # -- rows ---------------------------------------------------------------------------------------------------

    @run.register
    def _update(self, statement: st.Update) -> Result:
        return self._rows.update(statement)

    @run.register
    def _delete(self, statement: st.Delete) -> Result:
        return self._rows.delete(statement)

    @run.register
    def _query(self, statement: st.Query) -> Result:
        return self._querying.query(statement)

    def stream(self, sql: str) -> ChangeStream:
        """A continuous query, or what passes through a job."""
        statements = parse(sql)
        if len(statements) == 1 and isinstance(statements[0], st.TraceJob):
            return self._follow(statements[0])
        if len(statements) != 1 or not isinstance(statements[0], st.Query):
            raise SqlError("stream takes one query, or TRACE JOB")
        return self._querying.stream(statements[0], sql)

    # -- talk ---------------------------------------------------------------------------------------------------

    @run.register
    def _explain(self, statement: st.Explain) -> Result:
        return self._explaining.plan(statement)

    @run.register
    def _explain_state(self, statement: st.ExplainState) -> Result:
        return self._explaining.state(statement)

    @run.register
    def _trace_job(self, statement: st.TraceJob) -> Result:
        if statement.follows:
            with self._context.aside():
                return collected(self._follow(statement))
        self._context.catalog.job(statement.name)
        driver = self._context.driver
        with driver.boundary() as flow:
            return trace(flow, statement.name, Key(statement.values), driver.clock.now())

    def _follow(self, statement: st.TraceJob) -> ChangeStream:
        self._context.catalog.job(statement.name)
        key = Key(statement.values)
        return follow(self._context.driver, statement.name, key, statement.seconds, statement.limit)

    @run.register
    def _show(self, statement: st.Show) -> Result:
        if statement.what == "SAVEPOINTS":
            return self.saving.show()
        return self._shows.show(statement)

    @run.register
    def _describe(self, statement: st.Describe) -> Result:
        return self._shows.describe(statement.name)

    @run.register
    def _set(self, statement: st.SetOption) -> Result:
        options = self._context.options
        if statement.key is None:
            names = sorted(SESSION_OPTIONS)
            return Result(
                pa.table(
                    {
                        "key": names,
                        "value": [options.get(n) for n in names],
                        "doc": [SESSION_OPTIONS[n].doc for n in names],
                    }
                )
            )
        options.set(statement.key, statement.value or "")
        self._context.apply_options()
        return Result(message=f"{statement.key} = {statement.value}")

    @run.register
    def _reset(self, statement: st.ResetOption) -> Result:
        self._context.options.reset(statement.key)
        self._context.apply_options()
        return Result(message="all options reset" if statement.key is None else f"{statement.key} reset")
