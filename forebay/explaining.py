"""EXPLAIN and EXPLAIN STATE: what a statement would do and need. Nothing is changed by it."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from forebay.bound import as_bound, as_made
from forebay.changing import Changing
from forebay.context import Context
from forebay.engine.errors import UnsupportedError
from forebay.estimate import explain_state
from forebay.planner import statements as st
from forebay.planner.dialect.script import parse
from forebay.planner.explain import explain
from forebay.plans import Plans
from forebay.result import Result
from forebay.volume import Volumes, sampled


class Explaining:
    """Explains statements of one warehouse."""

    def __init__(self, context: Context, plans: Plans, changing: Changing) -> None:
        self._context = context
        self._plans = plans
        self._changing = changing

    def plan(self, statement: st.Explain) -> Result:
        """EXPLAIN."""
        inner, relations = statement.statement, self._context.relations
        match inner:
            case st.Query() | st.CreateMaterializedView() | st.CreateView():
                text = explain(self._plans.bind(inner.query, inner.sql), relations)
            case st.Insert():
                text = explain(self._plans.sink_node(inner), relations)
            case st.StatementSet():
                text = "\n".join(explain(self._plans.sink_node(i), relations) for i in inner.inserts)
            case st.AlterJob():
                text = self._changing.explain_job(inner)
            case st.AlterMaterializedView():
                text = self._changing.explain_view(inner)
            case _:
                raise UnsupportedError("only queries, INSERT and CREATE ... AS can be explained")
        return Result(pa.table({"plan": [text]}))

    def state(self, statement: st.ExplainState) -> Result:
        """EXPLAIN STATE: of a statement that is not carried out, or of a job that runs."""
        context = self._context
        inner, job, bound = self._to_explain(statement)
        now = context.driver.clock.now()
        made = context.options.given if statement.statement is not None else context.catalog.job(statement.job).options
        with as_bound(context.catalog, context.registry, context.relations, bound), as_made(context.options, made):
            plan = self._plans.would_run(inner)
        with context.aside():
            sources = sampled(plan, now)
        with context.driver.boundary() as flow:
            return explain_state(flow, context.driver.budget, job, plan, Volumes(flow, sources, now))

    def _to_explain(self, statement: st.ExplainState) -> tuple[st.Statement, str | None, Mapping[str, str]]:
        """(statement, the job that runs it if one does, what that was bound to)."""
        catalog = self._context.catalog
        if statement.statement is None:
            known = catalog.job(statement.job)
            return parse(known.sql)[0], known.name, known.bound
        sql = statement.statement.sql.split()
        job = next((j.name for j in catalog.jobs.values() if j.sql.split() == sql), None)
        return statement.statement, job, {}
