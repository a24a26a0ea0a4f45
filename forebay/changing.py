"""ALTER JOB and ALTER MATERIALIZED VIEW: another statement in the place of what runs, and what EXPLAIN tells of it before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from forebay.altering import LOSE, told, view_options
from forebay.bound import definitions
from forebay.context import Context
from forebay.engine.errors import CatalogError, SqlError, UnsupportedError
from forebay.engine.runtime.alter import compare
from forebay.engine.runtime.plan import JobPlan
from forebay.planner import statements as st
from forebay.planner.explain import explain
from forebay.planner.nodes import Node
from forebay.planner.tables import MaterializedView
from forebay.plans import Plans, inserts_of, tables_of
from forebay.result import Result


class Changing:
    """Changes jobs of one warehouse. `done` makes the change of a job durable, with the state that it goes on from."""

    def __init__(self, context: Context, plans: Plans, done: Callable[[str], None]) -> None:
        self._driver = context.driver
        self._catalog = context.catalog
        self._relations = context.relations
        self._plans = plans
        self._done = done

    # -- jobs ---------------------------------------------------------------------------------------------------

    def alter_job(self, statement: st.AlterJob) -> Result:
        """Put another statement in the place of a job's; it is durable on return."""
        job, inserts = self._catalog.job(statement.name), inserts_of(statement.body)
        with self._driver.boundary():
            plan, former, lose, reads = self._plans.alteration(statement)
            found, difference = self._driver.alter(job.name, plan, former, lose=lose)
            sql = statement.body.sql
            found.respelled = sql.split() != job.sql.split()
            self._catalog.jobs[job.name] = replace(
                job,
                sql=sql,
                reads=reads,
                writes=tuple(i.target for i in inserts),
                bound=definitions(self._catalog, sql),
                options=dict(self._relations.options.given),
            )
        self._done(job.name)
        return Result(message=f"job {job.name} altered: " + "; ".join(told(found, difference)))

    def explain_job(self, statement: st.AlterJob) -> str:
        """What ALTER JOB would do, and the new plan."""
        with self._driver.boundary() as flow:
            plan, former, lose, _ = self._plans.alteration(statement)
            found = compare(flow, statement.name, plan)
            found.respelled = statement.body.sql.split() != self._catalog.job(statement.name).sql.split()
            whole = compare(flow, statement.name, plan, whole=True)
            known = former is not None and not compare(flow, statement.name, former, whole=True).lost and not whole.lost
        lines = told(found, known)
        if found.lost and not lose:
            lines[-1] = f"refused without '{LOSE}' = 'true'"
        plans = [explain(self._plans.sink_node(i), self._relations) for i in inserts_of(statement.body)]
        return "\n".join([*lines, "", *plans])

    # -- materialized views -------------------------------------------------------------------------------------

    def alter_view(self, statement: st.AlterMaterializedView) -> Result:
        """Put another query in the place of a view's; its readers see the difference. Durable on return."""
        lose = view_options(statement.options)
        with self._driver.boundary():
            view, node, plan, key = self._view(statement)
            found, _ = self._driver.alter(view.name, plan, None, lose=lose)
            found.respelled = statement.query_sql.split() != view.sql.split()
            made = replace(view, sql=statement.query_sql, schema=node.schema, primary_key=key)
            self._catalog.put_last(made)
            self._catalog.jobs[view.name] = replace(
                self._catalog.jobs[view.name],
                sql=made.ddl(),
                reads=tables_of(node),
                bound=definitions(self._catalog, made.ddl()),
                options=dict(self._relations.options.given),
            )
        self._done(view.name)
        return Result(message=f"materialized view {view.name} altered: " + "; ".join(told(found, None)))

    def explain_view(self, statement: st.AlterMaterializedView) -> str:
        """What ALTER MATERIALIZED VIEW would do, and the new plan."""
        lose = view_options(statement.options)
        with self._driver.boundary() as flow:
            view, node, plan, _ = self._view(statement)
            found = compare(flow, view.name, plan, whole=True)
            found.respelled = statement.query_sql.split() != view.sql.split()
        lines = told(found, None)
        if found.lost and not lose:
            lines[-1] = f"refused without '{LOSE}' = 'true'"
        return "\n".join([*lines, "", explain(node, self._relations)])

    def _view(self, statement: st.AlterMaterializedView) -> tuple[MaterializedView, Node, JobPlan, tuple[str, ...]]:
        view = self._catalog.find(statement.name)
        if not isinstance(view, MaterializedView):
            raise CatalogError(
                f"{statement.name} is not a materialized view", hint="SHOW MATERIALIZED VIEWS lists them"
            )
        if view.scheduled:
            raise UnsupportedError(
                f"{view.name} is refreshed on a schedule, and keeps no state", hint="drop it and create it again"
            )
        node, plan, key = self._plans.view(view.name, statement.query, statement.sql, view.columns)
        around = self._catalog.readers(view.name) & set(tables_of(node)) | ({view.name} & set(tables_of(node)))
        if around:
            raise SqlError(
                f"{view.name} would read itself through '{min(around)}'",
                sql=statement.sql,
                hint="a view cannot stand on what stands on it",
            )
        return view, node, plan, key
