"""CALL bootstrap: a history for a table whose jobs run already.

The table's definition gets the options of a history. A job of its own, without output, builds all that the jobs keep of the
table by that definition: history from files, and the stream from its end on up to where the jobs stand (`handover`). Then,
between two epochs, each job goes over to that state, as ALTER JOB does; what stands above it is made from it. So a row counts
once, by the seam of the definition, and a deletion of today beats a row of last month. What is under way is in the catalog: a
process that was killed goes on, whoever called.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from forebay.bound import as_bound, as_made, rebound
from forebay.connectors import bootstrap as opts
from forebay.context import Context
from forebay.engine.errors import CatalogError, OptionError, StateError, nearest
from forebay.engine.files import declare, kill_point
from forebay.engine.runtime.bootstrap import check as check_gaps
from forebay.engine.runtime.handover import Moved, arrived, hand_over, parts_of
from forebay.engine.runtime.job import Status
from forebay.engine.runtime.plan import JobPlan, ScanStep
from forebay.keeping import Keeping
from forebay.planner import statements as st
from forebay.planner.define import altered
from forebay.planner.dialect.script import parse
from forebay.planner.jobs import JobDefinition, Loading
from forebay.planner.tableoptions import STATE_COLUMNS
from forebay.planner.tables import Table
from forebay.plans import Plans, inserts_of
from forebay.refresh import Refresher
from forebay.result import Result

log = logging.getLogger("forebay")
declare("bootstrap.handover.before", "bootstrap.handover.after", "bootstrap.defined.before")
PARAMETERS = {
    "table": None,
    "path": opts.HISTORY_PATH.name,
    "until": opts.UNTIL.name,
    "format": opts.HISTORY_FORMAT.name,
    "partition_keys": opts.PARTITION_KEYS.name,
    "version": opts.VERSION.name,
    "time_column": opts.TIME_COLUMN.name,
    "mode": opts.MODE.name,
    "fail_on_gap": opts.FAIL_ON_GAP.name,
    "columns": STATE_COLUMNS.name,
}
"""Of the procedure, in their order → the table's option that each becomes."""
_SCHEMA = pa.schema(
    [
        ("table", pa.string()), ("rows", pa.int64()), ("seconds", pa.float64()), ("rate", pa.float64()),
        ("jobs", pa.string()), ("left_out", pa.string()),
    ]
)  # fmt: skip
_LOOK = 0.1
"""Seconds between two looks whether jobs can go over."""


@dataclass(slots=True)
class _Outcome:
    moved: Moved | None = None
    error: Exception | None = None
    rows: int = 0
    loading_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


class Histories:
    """Carries CALL bootstrap out in one warehouse."""

    def __init__(self, context: Context, plans: Plans, keeping: Keeping, refresher: Refresher) -> None:
        self._driver = context.driver
        self._catalog = context.catalog
        self._relations = context.relations
        self._registry = context.registry
        self._lock = context.lock
        self._save = context.save
        self._plans = plans
        self._keeping = keeping
        self._refresher = refresher
        self._outcomes: dict[str, _Outcome] = {}

    # -- the statement ------------------------------------------------------------------------------------------

    def begin(self, statement: st.Call) -> Loading:
        """Check the arguments and start to load; `over` tells when it is done, `result` how it went.

        Raises:
            CatalogError: there is no such procedure or table.
            OptionError: an argument does not fit.
            ConnectorError: the stream has lost what came after the history.
        """
        loading = self._loading(statement)
        self._outcomes[loading.job] = _Outcome()
        plan = self._plan(loading)
        check_gaps(plan)
        _check_files(plan)
        if not plan.outputs:
            self._define(loading)
            self._save()
            self._outcomes[loading.job].moved = Moved((), {})
            return loading
        self._catalog.loading[loading.job] = loading
        self._save()
        self._start(loading, plan, None, {})
        return loading

    def _loading(self, statement: st.Call) -> Loading:
        if statement.name != "bootstrap":
            raise CatalogError(f"there is no procedure '{statement.name}'", hint="sys.bootstrap")
        given = _arguments(statement)
        table = self._catalog.table(given.pop("table"))
        if table.embedded:
            raise OptionError(f"{table.name} is no table of a connector", hint="INSERT INTO it")
        options = {PARAMETERS[name] or name: value for name, value in given.items()}
        mode = options.get(opts.MODE.name, "state-only")
        if mode not in opts.MODE.choices:
            raise OptionError(f"mode cannot be '{mode}'", hint=f"one of: {', '.join(opts.MODE.choices)}")
        loading = Loading(table.name, {**options, opts.MODE.name: "state-only"}, mode == "replay")
        if loading.job in self._catalog.loading:
            raise StateError(f"a history of {table.name} is being loaded already", hint="SHOW JOBS tells how far it is")
        if opts.HISTORY_PATH.name not in {**table.options, **options}:
            raise OptionError(
                f"{table.name} has no history yet", hint="give path => and until =>, where it lies and when it ends"
            )
        self._relations.bootstrap(self._defined(table, loading))  # checks it
        return loading

    def over(self, loading: Loading) -> bool:
        """Whether jobs have gone over, or never will."""
        outcome = self._outcomes[loading.job]
        return outcome.moved is not None or outcome.error is not None

    def result(self, loading: Loading) -> Result:
        """What was loaded, and for whom.

        Raises:
            Exception: what it failed on.
        """
        outcome = self._outcomes.pop(loading.job)
        if outcome.moved is None:
            raise outcome.error or StateError(f"the history of {loading.table} was called off")
        moved, seconds = outcome.moved, outcome.loading_seconds
        rate = outcome.rows / seconds if seconds else 0.0
        left = "; ".join(f"{name}: {why}" for name, why in moved.left.items()) or None
        row = (loading.table, outcome.rows, seconds, rate, ", ".join(moved.jobs), left)
        result = Result(pa.Table.from_pylist([dict(zip(_SCHEMA.names, row))], _SCHEMA))
        result.warnings += outcome.warnings
        return result

    # -- life ---------------------------------------------------------------------------------------------------

    def reopen(
        self, saved: Iterable[Mapping[str, Any]], placements: Mapping[str, Mapping[str, str]], scans: Mapping[str, Any]
    ) -> list[Callable[[], None]]:
        """Go on with what was under way; what is to be done once states are loaded."""
        late: list[Callable[[], None]] = []
        for value in saved:
            loading = Loading(value["table"], value["options"], value["replay"])
            self._outcomes[loading.job] = _Outcome()
            self._catalog.loading[loading.job] = loading
            placement = placements.get(loading.job)
            if placement is None:  # jobs may be late as well, and have to be there first
                late.append(functools.partial(self._go_on, loading, None, scans))
            else:
                self._go_on(loading, placement, scans)
        return late

    def _go_on(self, loading: Loading, placement: Mapping[str, str] | None, scans: Mapping[str, Any]) -> None:
        plan = self._plan(loading)
        if plan.outputs:
            self._start(loading, plan, placement, scans)
        else:  # jobs have gone over, and only the catalog did not know
            del self._catalog.loading[loading.job]
            self._define(loading)

    def _start(
        self, loading: Loading, plan: JobPlan, placement: Mapping[str, str] | None, scans: Mapping[str, Any]
    ) -> None:
        positions = scans if placement is not None else {}
        self._driver.attach(
            loading.job,
            plan,
            placement=placement,
            positions=positions,
            initial=placement is None,
            follows=loading.table,
        )
        self._refresher.add(loading.job, _LOOK, functools.partial(self._look, loading))

    def cancel(self, job: str) -> bool:
        """Call a load off; False if there is none of that name."""
        loading = self._catalog.loading.pop(job, None)
        if loading is None:
            return False
        self._refresher.remove(job)
        self._driver.detach(job)
        outcome = self._outcomes.setdefault(job, _Outcome())
        outcome.error = outcome.error or StateError(f"the history of {loading.table} was called off")
        self._save()
        return True

    def forget(self, table: str) -> None:
        """The table is dropped."""
        for loading in [h for h in self._catalog.loading.values() if h.table == table]:
            self.cancel(loading.job)

    def _look(self, loading: Loading) -> None:
        """Let jobs go over if they can."""
        with self._lock, self._driver.boundary() as flow:
            job = self._driver.jobs.get(loading.job)
            if loading.job not in self._catalog.loading or job is None:
                return
            if job.status is Status.FAILED:
                self._outcomes[loading.job].error = job.error
                log.error("the history of %s could not be loaded: %s", loading.table, job.error)
                self.cancel(loading.job)
            elif job.status is Status.RUNNING and arrived(flow, loading.job):
                self._finish(loading)

    def _finish(self, loading: Loading) -> None:
        outcome, job = self._outcomes[loading.job], self._driver.jobs[loading.job]
        if job.loaded is not None:
            outcome.rows, outcome.loading_seconds = job.loaded.rows, job.loaded.seconds
        kill_point("bootstrap.handover.before")
        moves: dict[str, Callable[[], None]] = {
            j.name: functools.partial(self._move, j, loading) for j in self._jobs(loading)
        }
        moved = hand_over(moves | self._kept_moves(loading))
        for name, why in moved.left.items():
            log.warning("job %s goes on without the history of %s: %s", name, loading.table, why)
        self._refresher.remove(loading.job)
        self._driver.detach(loading.job)
        del self._catalog.loading[loading.job]
        self._define(loading)
        self._driver.savepoint(lambda checkpoint: None)
        kill_point("bootstrap.handover.after")
        self._save()
        outcome.moved = moved

    # -- definitions --------------------------------------------------------------------------------------------

    def _defined(self, table: Table, loading: Loading) -> Table:
        change = st.AlterTable(sql="", name=table.name, action="SET", options=loading.options)
        return altered(table, change, self._registry, self._relations.types)

    def _define(self, loading: Loading) -> None:
        """From now on the table is defined so for everybody."""
        kill_point("bootstrap.defined.before")
        table = self._catalog.relations.get(loading.table)
        if isinstance(table, Table):
            self._catalog.relations[table.name] = self._defined(table, loading)

    def _rebound(self, bound: Mapping[str, str], loading: Loading) -> dict[str, str]:
        """What a job was bound to, with the table as it will be."""
        return {**bound, loading.table: rebound(bound[loading.table], loading.options, self._relations)}

    def _jobs(self, loading: Loading) -> list[JobDefinition]:
        """Jobs that read the table by another definition."""
        mine = [j for j in self._catalog.jobs.values() if loading.table in j.bound and loading.table in j.reads]
        return [j for j in mine if self._rebound(j.bound, loading) != j.bound]

    def _plan(self, loading: Loading) -> JobPlan:
        """All that jobs keep of the table, as it will be defined."""
        plans = {j.name: self._job_plan(j, self._rebound(j.bound, loading)) for j in self._jobs(loading)}
        for kept in self._catalog.kept.values():
            if kept.table == loading.table and self._rebound(kept.bound, loading) != kept.bound:
                plans[kept.name] = self._keeping.plan(kept, self._rebound(kept.bound, loading))
        return JobPlan(tuple(part for plan in plans.values() for part in parts_of(plan, loading.table)))

    def _job_plan(self, job: JobDefinition, bound: Mapping[str, str]) -> JobPlan:
        statement = parse(job.sql)[0]
        made = as_made(self._relations.options, job.options)
        with as_bound(self._catalog, self._registry, self._relations, bound), made:
            if isinstance(statement, st.CreateMaterializedView):
                return self._plans.view(job.name, statement.query, statement.sql, statement.columns)[1]
            inserts = inserts_of(statement)
            nodes = [self._plans.assigned(i, self._catalog.table(i.target)) for i in inserts]
            return self._plans.job(job.name, inserts, nodes)

    # -- going over ---------------------------------------------------------------------------------------------

    def _move(self, job: JobDefinition, loading: Loading) -> None:
        bound = self._rebound(job.bound, loading)
        former = self._job_plan(job, job.bound) if loading.replay and job.name not in self._catalog.relations else None
        _, told = self._driver.alter(job.name, self._job_plan(job, bound), former, lose=False)
        if former is not None and not told:
            untold = f"nothing knows what the sinks of {job.name} have got: they get what changes from here on"
            self._outcomes[loading.job].warnings.append(untold)
            log.warning(untold)
        self._catalog.jobs[job.name] = replace(job, bound=bound)

    def _kept_moves(self, loading: Loading) -> dict[str, Callable[[], None]]:
        def move(name: str) -> None:
            kept = self._catalog.kept[name]
            bound = self._rebound(kept.bound, loading)
            self._driver.alter(name, self._keeping.plan(kept, bound), None, lose=False)
            self._catalog.kept[name] = replace(kept, bound=bound)

        mine = [k for k in self._catalog.kept.values() if k.table == loading.table]
        return {k.name: functools.partial(move, k.name) for k in mine if self._rebound(k.bound, loading) != k.bound}


def _check_files(plan: JobPlan) -> None:
    """Raise if the history cannot be found, before anything is begun."""
    for step in plan.steps():
        if isinstance(step, ScanStep) and step.history is not None:
            step.history.open(step.scan.columns).reader(None).close()


def _arguments(statement: st.Call) -> dict[str, str]:
    """The arguments by name, without those that are NULL.

    Raises:
        OptionError: one is unknown, missing, or given twice.
    """
    names = list(PARAMETERS)
    if len(statement.positional) > len(names):
        raise OptionError(f"bootstrap takes {len(names)} arguments at most", hint=", ".join(names))
    given = dict(zip(names, statement.positional))
    for name, value in statement.named.items():
        if name not in PARAMETERS:
            close = nearest(name, names)
            hint = f"did you mean '{close}'?" if close else f"its arguments: {', '.join(names)}"
            raise OptionError(f"bootstrap has no argument '{name}'", hint=hint)
        if name in given:
            raise OptionError(f"argument '{name}' is given twice")
        given[name] = value
    found = {name: value for name, value in given.items() if value is not None}
    if "table" not in found:
        raise OptionError("bootstrap needs the argument table", hint="CALL sys.bootstrap(`table` => 'orders', ..)")
    return found
