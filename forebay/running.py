"""The life of a warehouse's jobs: started, started again when it is opened, waited for, removed.

A job that runs is in the catalog, with the options it was made under and the definitions it is bound to; it keeps its id for as
long as it lives. One that is run to its end is not: it is over when its statement is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forebay.bound import definitions
from forebay.context import Context
from forebay.engine.errors import CatalogError
from forebay.engine.runtime.job import Status
from forebay.engine.runtime.plan import JobPlan
from forebay.engine.secrets import hidden
from forebay.histories import Histories
from forebay.jobs import Job
from forebay.keeping import Keeping
from forebay.planner import statements as st
from forebay.planner.jobs import JobDefinition
from forebay.planner.nodes import Node
from forebay.plans import Plans, inserts_of, tables_of
from forebay.result import Result
from forebay.session import Jobs


class Running:
    """The jobs of one warehouse."""

    def __init__(self, context: Context, plans: Plans, keeping: Keeping, histories: Histories) -> None:
        self._context = context
        self._driver = context.driver
        self._catalog = context.catalog
        self._plans = plans
        self._keeping = keeping
        self._histories = histories
        self.ids: dict[str, str] = {}
        """Ids of saved jobs that are being started again."""
        self.jobs = Jobs(lambda: [*self._catalog.jobs, *self._catalog.loading], self._handle)
        context.driver.definitions = lambda: {name: job.to_json() for name, job in list(self._catalog.jobs.items())}

    def _handle(self, name: str) -> Job:
        loading = self._catalog.loading.get(name)
        sql = self._catalog.jobs[name].sql if loading is None else f"CALL sys.bootstrap('{loading.table}')"
        return Job(self._driver, name, hidden(sql), self.remove)

    # -- start --------------------------------------------------------------------------------------------------

    def free_name(self, base: str) -> str:
        """A name for a new job: the option 'pipeline.name', which one job uses up, or else `base`."""
        name = self._context.options.get("pipeline.name") or base
        self._context.options.given.pop("pipeline.name", None)
        number, free = 2, name
        while free in self._catalog.jobs:
            free, number = f"{name}_{number}", number + 1
        return free

    def start(self, name: str, sql: str, inserts: tuple[st.Insert, ...]) -> Result:
        """Start a new job."""
        self._start(name, sql, inserts, None, {})
        self._context.save()
        return Result(message=f"job {name} started")

    def restart(
        self, name: str, statement: st.Statement, placement: Mapping[str, str] | None, scans: Mapping[str, Any]
    ) -> None:
        """Start a saved job again, from a checkpoint if that knows it."""
        self._start(name, statement.sql, inserts_of(statement), placement, scans)

    def _start(
        self,
        name: str,
        sql: str,
        inserts: tuple[st.Insert, ...],
        placement: Mapping[str, str] | None,
        scans: Mapping[str, Any],
    ) -> None:
        nodes = [self._plans.assigned(i, self._catalog.table(i.target)) for i in inserts]
        self._context.attach(name, self._plans.job(name, inserts, nodes), placement, scans)
        self.define(name, sql, nodes, tuple(i.target for i in inserts))

    def define(self, name: str, sql: str, nodes: Sequence[Node], writes: tuple[str, ...]) -> None:
        """Enter a job that runs these plans into the catalog; one that is started again keeps its id."""
        reads = tuple(sorted({table for node in nodes for table in tables_of(node)}))
        known = {"id": self.ids.pop(name)} if name in self.ids else {}
        options, bound = dict(self._context.options.given), definitions(self._catalog, sql)
        self._catalog.jobs[name] = JobDefinition(name, sql, options, reads, writes, bound, **known)

    def to_end(self, name: str, plan: JobPlan) -> int:
        """Run a job over bounded inputs: its rows are committed on return. How many there were.

        Raises:
            Exception: what it failed on.
        """
        self._context.attach(name, plan, None, {})
        job = self._driver.jobs[name]
        try:
            self._context.wait(lambda: job.status in (Status.FINISHED, Status.FAILED))
            if job.status is Status.FAILED and job.error is not None:
                raise job.error
        finally:
            self._driver.detach(name)
        return sum(outbox.rows for outbox in job.outboxes)

    # -- end ----------------------------------------------------------------------------------------------------

    def control(self, statement: st.ControlJob) -> Result:
        """STOP JOB and RESUME JOB."""
        self._catalog.job(statement.name)
        if statement.action == "RESUME":
            status = self._driver.jobs[statement.name].status
            if status not in (Status.FAILED, Status.RESTARTING):
                return Result(message=f"job {statement.name} is {status.value}, there is nothing to resume")
            self._driver.resume(statement.name)
            return Result(message=f"job {statement.name} resumed")
        self._driver.checkpoint_now(30)
        self.remove(statement.name)
        return Result(message=f"job {statement.name} stopped")

    def drop(self, name: str, if_exists: bool) -> Result:
        """DROP JOB."""
        if self._histories.cancel(name):
            return Result(message=f"{name} called off")
        if name not in self._catalog.jobs and if_exists:
            return Result(message=f"there is no job {name}")
        if name in self._catalog.relations:
            raise CatalogError(f"{name} is a materialized view", hint=f"DROP MATERIALIZED VIEW {name}")
        self._catalog.job(name)
        self.remove(name)
        return Result(message=f"job {name} dropped")

    def remove(self, name: str) -> None:
        """Take a job out of the dataflow and the catalog."""
        if self._histories.cancel(name):
            return
        self.detach(name)
        self._context.save()

    def detach(self, name: str) -> None:
        """The same, but for saving the catalog; what its tables want to keep stays."""
        self._keeping.leaving(name)
        self._driver.detach(name)
        self._catalog.jobs.pop(name, None)

    def caught_up(self, name: str) -> bool:
        """Whether a job's bounded inputs are consumed, shown and committed; unbounded ones never are."""
        job = self._driver.jobs.get(name)
        if job is None or not job.alive:
            return True
        if job.status is not Status.RUNNING or any(n.scan is not None for n in self._driver.flow.nodes_of(name)):
            return False
        definition, others = self._catalog.jobs[name], self._catalog.jobs.values()
        feeders = [j.name for j in others if set(j.writes) & set(definition.reads)]
        return all(map(self.caught_up, feeders)) and self._driver.settled(job)
