"""What each statement does: to the catalog, to the dataflow, to the tables."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from forebay.bound import as_bound, as_made, definitions, rebound
from forebay.changing import Changing
from forebay.engine.batch import Batch
from forebay.engine.connector import Option, Registry, check_options
from forebay.engine.consolidate import consolidate
from forebay.engine.errors import (
    CatalogError,
    ForebayError,
    OptionError,
    SqlError,
    StateError,
    UnsupportedError,
)
from forebay.engine.operators.table import TableOperator
from forebay.engine.runtime import deadletters
from forebay.engine.runtime.bootstrap import check as check_gaps
from forebay.engine.runtime.budget import machine_share
from forebay.engine.runtime.driver import describe_error
from forebay.engine.runtime.job import Status
from forebay.engine.runtime.outbox import Outlet, StreamOutlet
from forebay.engine.runtime.plan import JobPlan
from forebay.engine.runtime.warehouse import Restored, Warehouse
from forebay.engine.secrets import hidden
from forebay.engine.serve.snapshot import canonical_floats, expand
from forebay.estimate import explain_state
from forebay.histories import Histories
from forebay.interrupt import unless_interrupted
from forebay.jobs import Job
from forebay.keeping import Keeping
from forebay.matching import Key
from forebay.planner import statements as st
from forebay.planner.assign import assigned
from forebay.planner.binder import notices
from forebay.planner.catalog import (
    STATE_KEEP,
    STATE_TTL,
    Catalog,
    JobDefinition,
    MaterializedView,
    Table,
    View,
    altered,
    define,
    state_ttl,
    tables_named,
)
from forebay.planner.dialect.script import parse
from forebay.planner.explain import explain
from forebay.planner.nodes import Node, Scan
from forebay.planner.options import SESSION_OPTIONS, Options, duration
from forebay.planner.physical import Lowering
from forebay.plans import Plans, inserts_of, tables_of
from forebay.refresh import OPTION as REFRESH_INTERVAL
from forebay.refresh import Refresher
from forebay.relations import Relations
from forebay.result import ChangeStream, Result, as_table
from forebay.rows import TableRows
from forebay.saving import Saving
from forebay.session import Jobs
from forebay.show import Shows
from forebay.snapshots import SnapshotQueries, refuse_unbounded
from forebay.tap import collected, follow
from forebay.trace import trace
from forebay.udfs import register_udf
from forebay.volume import Volumes, sampled


class Executor:
    """Carries statements out against one warehouse. Callers hold the connection's `lock`."""

    def __init__(
        self,
        warehouse: Warehouse,
        catalog: Catalog,
        relations: Relations,
        options: Options,
        registry: Registry,
        lock: threading.RLock,
    ) -> None:
        self._lock = lock
        self.warehouse = warehouse
        self.driver = warehouse.driver
        self.catalog = catalog
        self.relations = relations
        self.options = options
        self.registry = registry
        self.queries = SnapshotQueries(self.driver, relations, self._aside)
        self.plans = Plans(warehouse, catalog, relations, options, registry)
        self.rows = TableRows(self.driver, catalog, relations, self.queries)
        self.jobs = Jobs(lambda: [*catalog.jobs, *catalog.loading], self._handle)
        self._shows = Shows(catalog, self.driver, self.jobs, self._view_schema)
        relations.states = self._shows.state_schemas
        self.saving = Saving(warehouse, lambda: catalog.to_json(options.given), self._aside)
        self._keeping = Keeping(self.driver, catalog, relations, registry, self.plans.lowering)
        self._changing = Changing(self.driver, catalog, relations, self.plans, self._altered)
        self.refresher = Refresher(self.driver.clock.monotonic)
        self._histories = Histories(
            self.driver,
            catalog,
            relations,
            registry,
            self.plans,
            self._keeping,
            self.refresher,
            lock,
            self.save,
        )
        self._streams = 0
        self._opened = False
        self._ids: dict[str, str] = {}
        """Ids of saved jobs that are being started again."""
        self.driver.definitions = lambda: {name: job.to_json() for name, job in list(catalog.jobs.items())}
        with self.driver.boundary() as flow:
            flow.add_relation(deadletters.NAME, deadletters.DeadLetterOperator())

    def _altered(self, name: str) -> None:
        """A job runs another statement: durable, with the state that it goes on from, on return."""
        self.driver.savepoint(lambda checkpoint: None)
        self.queries.snapshots.forget(name)
        self.save()

    def _handle(self, name: str) -> Job:
        loading = self.catalog.loading.get(name)
        sql = self.catalog.jobs[name].sql if loading is None else f"CALL sys.bootstrap('{loading.table}')"
        return Job(self.driver, name, hidden(sql), self.remove_job)

    # -- opening ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Load the catalog and the last checkpoint, place every job, replay DML."""
        self._reload()
        self._opened = True

    def _reload(self) -> None:
        saved = self.warehouse.load_catalog()
        value = None if saved is None else _catalog_of(saved)
        for name, option in (value["options"] if value else {}).items():
            self.options.given.setdefault(name, option)
        self._configure_driver()
        if value is None:
            return
        restored = self.warehouse.read_checkpoint()
        jobs = [_as_checkpointed(job, restored) for job in value["jobs"]]
        self._ids = {job["name"]: job["id"] for job in jobs if "id" in job}
        late: list[Callable[[], None]] = []  # what no checkpoint knows yet starts from the contents that it restores
        made = {job["name"]: job for job in jobs}
        for statement in _in_order([_as_job(parse(ddl)[0], jobs) for ddl in value["relations"]]):
            late += self._reopen(statement, restored, made)
        for job in jobs:
            name, placement, statement = job["name"], restored.placements.get(job["name"]), parse(job["sql"])[0]
            if isinstance(statement, st.CreateMaterializedView):
                continue
            restart = functools.partial(self._restart, name, statement, placement, restored.scans)
            restart = functools.partial(self._as_made, job, restart)
            late += [restart] if placement is None else []
            if placement is not None:
                restart()
        late += self._keeping.reopen(value.get("kept", ()), restored.placements, restored.scans)
        late += self._histories.reopen(value.get("loading", ()), restored.placements, restored.scans)
        self.warehouse.load_states()
        for start in late:
            start()
        self.warehouse.replay_dml()
        self.driver.forget_bootstraps()

    def _as_made(self, job: Mapping[str, Any], start: Callable[[], None]) -> None:
        """Start a job that the catalog has, under what it was made under."""
        bound, made = job.get("bound", {}), job.get("options", {})
        with as_bound(self.catalog, self.registry, self.relations, bound), as_made(self.options, made):
            start()

    def _reopen(
        self, statement: st.Statement, restored: Restored, made: Mapping[str, Mapping[str, Any]]
    ) -> list[Callable[[], None]]:
        """Enter a relation again; what is to be done once states are loaded."""
        match statement:
            case st.CreateTable():
                table = define(statement, self.catalog, self.registry, self.relations.types)
                self.catalog.add(table)
                if table.embedded:
                    self._add_table_node(table)
            case st.CreateView():
                self.catalog.add(View.of(statement))
            case st.CreateMaterializedView() if statement.options:
                self._schedule(statement, fill=False)
            case st.CreateMaterializedView():
                placement = restored.placements.get(statement.name)
                materialize = functools.partial(self._materialize, statement, placement, restored.scans)
                materialize = functools.partial(self._as_made, made.get(statement.name, {}), materialize)
                if placement is None:
                    return [materialize]
                materialize()
        return []

    def _restart(
        self, name: str, statement: st.Statement, placement: Mapping[str, str] | None, scans: Mapping[str, Any]
    ) -> None:
        self._start_job(name, statement.sql, inserts_of(statement), placement, scans)

    def save(self) -> None:
        """Make the catalog durable."""
        self.warehouse.save_catalog(self.catalog.to_json(self.options.given))

    # -- dispatch -----------------------------------------------------------------------------------------------

    @functools.singledispatchmethod
    def run(self, statement: st.Statement) -> Result:
        """Carry out one statement."""
        raise UnsupportedError(f"{type(statement).__name__} is not supported")

    # -- definitions --------------------------------------------------------------------------------------------

    @run.register
    def _create_table(self, statement: st.CreateTable) -> Result:
        if statement.if_not_exists and statement.name in self.catalog.relations:
            return Result(message=f"table {statement.name} exists already")
        table = define(statement, self.catalog, self.registry, self.relations.types)
        self._check_use(table)
        self.catalog.add(table)
        if table.embedded:
            self._add_table_node(table)
        self.save()
        return Result(message=f"table {table.name} created")

    def _check_use(self, table: Table) -> None:
        """Make what a query would read the table with: an option that does not fit is told now, not at the first use."""
        if not table.embedded and self.registry.connector(table.options["connector"]).source is not None:
            self.relations.reading(table)
        elif not table.embedded:
            self.relations.bootstrap(table)

    def _add_table_node(self, table: Table) -> None:
        schema = table.schema()
        key = tuple(schema.get_field_index(k) for k in table.primary_key)
        with self.driver.boundary() as flow:
            flow.add_relation(table.name, TableOperator(schema, key))
        self.queries.snapshots.forget(table.name)

    @run.register
    def _create_view(self, statement: st.CreateView) -> Result:
        if statement.if_not_exists and statement.name in self.catalog.relations:
            return Result(message=f"view {statement.name} exists already")
        node = self.relations.binder().bind(statement.query, statement.sql)
        if statement.columns and len(statement.columns) != len(node.schema):
            raise SqlError(
                f"{len(statement.columns)} column names are given, the query has {len(node.schema)} columns",
                sql=statement.sql,
            )
        view = View.of(statement)
        self.catalog.add(view, replace_=statement.replace and isinstance(self.catalog.relations.get(view.name), View))
        self.save()
        return Result(message=f"view {view.name} created")

    @run.register
    def _create_materialized_view(self, statement: st.CreateMaterializedView) -> Result:
        if statement.if_not_exists and statement.name in self.catalog.relations:
            return Result(message=f"materialized view {statement.name} exists already")
        if statement.name in self.catalog.relations:
            raise CatalogError(
                f"{statement.name} already exists", hint="CREATE MATERIALIZED VIEW IF NOT EXISTS, or DROP it first"
            )
        known = [Option(REFRESH_INTERVAL, "how often")]
        check_options(statement.options, known, (), f"materialized view '{statement.name}'")
        if statement.options:
            self._schedule(statement, fill=True)
        else:
            self._materialize(statement, None, {})
        self.save()
        result = Result(message=f"materialized view {statement.name} created")
        result.warnings += notices(statement.query)
        return result

    def _schedule(self, statement: st.CreateMaterializedView, *, fill: bool) -> None:
        """A view that is refreshed at intervals; with `fill` its rows are made now, else a checkpoint brings them."""
        name = statement.name
        seconds = duration(statement.options[REFRESH_INTERVAL]) / 1e6
        if seconds <= 0:
            raise OptionError(f"option '{REFRESH_INTERVAL}' must be more than 0")
        node = self.relations.binder().bind_batch(statement.query, statement.sql)
        names = statement.columns or tuple(node.schema.names)
        if len(names) != len(node.schema):
            raise SqlError(f"{len(names)} column names are given, the query has {len(node.schema)} columns")
        schema = pa.schema([f.with_name(n).with_nullable(True) for f, n in zip(node.schema, names)])
        view = MaterializedView(
            name,
            statement.query_sql,
            schema,
            (),
            statement.columns,
            statement.options,
            statement.comment,
            tables_of(node),
        )

        def refresh() -> None:
            with self._lock:
                if self.catalog.relations.get(name) is view:
                    self._refresh(view, statement)

        self.catalog.add(view)
        with self.driver.boundary() as flow:
            flow.add_relation(name, TableOperator(schema, ()))
        self.queries.snapshots.forget(name)
        if fill:
            try:
                self._refresh(view, statement)
            except BaseException:
                del self.catalog.relations[name]
                self._remove_rows(name)
                raise
        self.refresher.add(name, seconds, refresh)

    def _refresh(self, view: MaterializedView, statement: st.CreateMaterializedView) -> None:
        """Apply the difference between what the view shows and what its query gives now."""
        fresh = self.queries.query(self.queries.plan(st.Query(sql=statement.sql, query=statement.query)), self._collect)
        if self.catalog.relations.get(view.name) is not view:  # dropped while its query was answered
            return
        rows = pa.Table.from_arrays(fresh.columns, schema=view.schema).combine_chunks().to_batches()
        shown = self.queries.contents(view.name).combine_chunks().to_batches()
        net = consolidate([*(Batch(b).negate() for b in shown), *map(Batch, rows)])
        if net is not None:
            self.driver.feed(view.name, net)

    def _materialize(
        self, statement: st.CreateMaterializedView, placement: Mapping[str, str] | None, scans: Mapping[str, Any]
    ) -> None:
        name = statement.name
        node, plan, key = self.plans.view(name, statement.query, statement.sql, statement.columns)
        view = MaterializedView(
            name, statement.query_sql, node.schema, key, statement.columns, statement.options, statement.comment
        )
        self._attach(name, plan, placement, scans)
        self.catalog.add(view)
        self.catalog.jobs[name] = JobDefinition(
            name,
            statement.sql,
            dict(self.options.given),
            tables_of(node),
            (name,),
            definitions(self.catalog, statement.sql),
            **self._known_id(name),
        )
        self.queries.snapshots.forget(name)

    def _attach(self, name: str, plan: JobPlan, placement: Mapping[str, str] | None, scans: Mapping[str, Any]) -> None:
        """Without a placement, a checkpoint's, the job is new: its scans begin where their tables say."""
        if self._opened:  # else the job fails by itself, and the others run
            check_gaps(plan)
        positions = scans if placement is not None else {}
        self.driver.attach(name, plan, placement=placement, positions=positions, initial=placement is None)

    @run.register
    def _drop(self, statement: st.Drop) -> Result:
        name, kind = statement.name, statement.kind
        if kind == "SAVEPOINT":
            return self.saving.drop(name, statement.if_exists)
        if kind == "JOB" and self._histories.cancel(name):
            return Result(message=f"{name} called off")
        if kind == "JOB":
            if name not in self.catalog.jobs and statement.if_exists:
                return Result(message=f"there is no job {name}")
            if name in self.catalog.relations:
                raise CatalogError(f"{name} is a materialized view", hint=f"DROP MATERIALIZED VIEW {name}")
            self.catalog.job(name)
            self.remove_job(name)
            return Result(message=f"job {name} dropped")
        if kind == "FUNCTION":
            raise UnsupportedError("functions live as long as the process", hint="define it again to replace it")
        if name not in self.catalog.relations and statement.if_exists:
            return Result(message=f"there is no {kind.lower()} {name}")
        found = self.catalog.drop(kind, name)
        self._keeping.release(name)
        self._histories.forget(name)
        if isinstance(found, MaterializedView) and not found.scheduled:
            self._keeping.leaving(name)
            self.driver.detach(name)
            del self.catalog.jobs[name]
        elif isinstance(found, MaterializedView) or (isinstance(found, Table) and found.embedded):
            self._remove_rows(name)
        self.queries.snapshots.forget(name)
        self.save()
        return Result(message=f"{kind.lower()} {name} dropped")

    def _remove_rows(self, name: str) -> None:
        """Take the node of an embedded table or scheduled view out of the dataflow."""
        self.refresher.remove(name)
        with self.driver.boundary() as flow:
            flow.drop_relation(name)

    @run.register
    def _alter_table(self, statement: st.AlterTable) -> Result:
        table = self.catalog.table(statement.name)
        changed = altered(table, statement, self.registry, self.relations.types)
        self._check_use(changed)
        if table.embedded and statement.action not in ("RENAME TO", "SET", "RESET"):
            self._alter_embedded(table, changed, statement)
        elif table.embedded and statement.action == "RENAME TO":
            raise UnsupportedError(
                "an embedded table cannot be renamed", hint="CREATE the new table and INSERT INTO it"
            )
        if changed.name != table.name and changed.name in self.catalog.relations:
            raise CatalogError(f"{changed.name} already exists")
        if changed.name != table.name:
            del self.catalog.relations[table.name]
        self.catalog.relations[changed.name] = changed
        if changed.name != table.name or changed.options.get(STATE_KEEP.name) != "true":
            self._keeping.release(table.name)
        message = f"table {table.name} altered" + self._follow_ttl(table, changed)
        self.save()
        return Result(message=message)

    def _follow_ttl(self, table: Table, changed: Table) -> str:
        """Jobs that run keep the table's rows as its option says now; what to tell of those that cannot."""
        ttl = state_ttl(changed.options)
        if ttl == state_ttl(table.options):
            return ""
        micros = self.options.micros("table.exec.state.ttl") if ttl is None else ttl * 1000
        with self.driver.boundary() as flow:
            stuck = flow.set_ttl(table.name, micros or None)
        for name, job in self.catalog.jobs.items():
            if table.name in job.bound and name not in stuck:
                now = {STATE_TTL.name: f"{micros // 1000} ms"}
                bound = rebound(job.bound[table.name], now, self.relations)
                self.catalog.jobs[name] = replace(job, bound={**job.bound, table.name: bound})
        if not stuck or not micros:
            return ""
        return f"; jobs that keep no time of its rows follow when they are made again: {', '.join(sorted(stuck))}"

    def _alter_embedded(self, table: Table, changed: Table, statement: st.AlterTable) -> None:
        """Rebuild an embedded table under its new columns; nothing may be reading it."""
        readers = self.catalog.users(table.name)
        if readers:
            raise UnsupportedError(
                f"{table.name} is read by {', '.join(readers)}",
                hint="drop them first, alter the table, create them again",
            )
        rows = self.queries.contents(table.name)
        old_names = dict(zip(statement.names[1:], statement.names[:1])) if statement.action == "RENAME COLUMN" else {}
        columns = []
        for field in changed.schema():
            source = old_names.get(field.name, field.name)
            known = rows.schema.get_field_index(source) >= 0
            columns.append(rows.column(source).cast(field.type) if known else pa.nulls(rows.num_rows, field.type))
        with self.driver.boundary() as flow:
            flow.drop_relation(table.name)
            self._add_table_node(changed)
            self.catalog.relations[table.name] = changed
            self.rows.write(table.name, pa.Table.from_arrays(columns, schema=changed.schema()))

    # -- jobs ---------------------------------------------------------------------------------------------------

    @run.register
    def _insert(self, statement: st.Insert) -> Result:
        table = self.catalog.table(statement.target)
        if self.options.get("execution.runtime-mode") == "batch":
            return self._insert_batch(statement, table)
        node = self.plans.assigned(statement, table)
        if table.embedded and self.queries.can_answer(node):
            return self.rows.insert(table, node)
        name = self._job_name(f"insert_into_{table.name}")
        if not tables_of(node):
            return self._insert_to_end(name, statement, node)
        result = self._start_job(name, statement.sql, (statement,), None, {}, save=True)
        result.warnings += notices(statement.query)
        return result

    def _insert_batch(self, statement: st.Insert, table: Table) -> Result:
        """The query's rows as they are now, into any table; a query may do all that a snapshot query may."""
        rows = self.queries.query(self.queries.plan(st.Query(sql=statement.sql, query=statement.query)), self._collect)
        name = self._job_name(f"insert_into_{table.name}")
        aside = f"__rows_of_{name}"
        self.relations.registered[aside] = rows
        try:
            scan = Scan(rows.schema, aside, tuple(rows.schema.names))
            node = assigned(scan, table.name, table.writable(), statement.columns or None, statement.sql)
            if table.embedded:
                return self.rows.insert(table, node)
            return self._insert_to_end(name, statement, node)
        finally:
            del self.relations.registered[aside]

    def _insert_to_end(self, name: str, statement: st.Insert, node: Node) -> Result:
        """Bounded rows into a connector's table: the job is over, its rows committed, when the statement returns."""
        self._check_running()
        self._attach(name, self.plans.job(name, [statement], [node]), None, {})
        job = self.driver.jobs[name]
        try:
            self._wait_aside(lambda: job.status in (Status.FINISHED, Status.FAILED))
            if job.status is Status.FAILED and job.error is not None:
                raise job.error
        finally:
            self.driver.detach(name)
        count = sum(outbox.rows for outbox in job.outboxes)
        return Result(message=f"{count} rows inserted", rowcount=count)

    @run.register
    def _statement_set(self, statement: st.StatementSet) -> Result:
        name = self._job_name("insert_into_" + "_".join(dict.fromkeys(i.target for i in statement.inserts)))
        return self._start_job(name, statement.sql, statement.inserts, None, {}, save=True)

    def _job_name(self, base: str) -> str:
        name = self.options.get("pipeline.name") or base
        self.options.given.pop("pipeline.name", None)
        number, free = 2, name
        while free in self.catalog.jobs:
            free, number = f"{name}_{number}", number + 1
        return free

    def _start_job(
        self,
        name: str,
        sql: str,
        inserts: tuple[st.Insert, ...],
        placement: Mapping[str, str] | None,
        scans: Mapping[str, Any],
        *,
        save: bool = False,
    ) -> Result:
        nodes = [self.plans.assigned(i, self.catalog.table(i.target)) for i in inserts]
        self._attach(name, self.plans.job(name, inserts, nodes), placement, scans)
        reads = tuple(sorted({table for node in nodes for table in tables_of(node)}))
        writes = tuple(i.target for i in inserts)
        self.catalog.jobs[name] = JobDefinition(
            name, sql, dict(self.options.given), reads, writes, definitions(self.catalog, sql), **self._known_id(name)
        )
        if save:
            self.save()
        return Result(message=f"job {name} started")

    def _known_id(self, name: str) -> dict[str, str]:
        """The id of a job that is started again; a new job gets its own."""
        return {"id": self._ids.pop(name)} if name in self._ids else {}

    def remove_job(self, name: str) -> None:
        """Take a job out of the dataflow and the catalog."""
        if self._histories.cancel(name):
            return
        self._keeping.leaving(name)
        self.driver.detach(name)
        self.catalog.jobs.pop(name, None)
        self.save()

    @run.register
    def _alter_job(self, statement: st.AlterJob) -> Result:
        return self._changing.alter_job(statement)

    @run.register
    def _alter_materialized_view(self, statement: st.AlterMaterializedView) -> Result:
        return self._changing.alter_view(statement)

    @run.register
    def _call(self, statement: st.Call) -> Result:
        loading = self._histories.begin(statement)
        if not self._histories.over(loading) and not self.driver.running:
            return Result(message=f"the history of {loading.table} is loaded once the warehouse runs")
        self._wait_aside(lambda: self._histories.over(loading))
        return self._histories.result(loading)

    @run.register
    def _control_job(self, statement: st.ControlJob) -> Result:
        self.catalog.job(statement.name)
        if statement.action == "RESUME":
            status = self.driver.jobs[statement.name].status
            if status not in (Status.FAILED, Status.RESTARTING):
                return Result(message=f"job {statement.name} is {status.value}, there is nothing to resume")
            self.driver.resume(statement.name)
            return Result(message=f"job {statement.name} resumed")
        self.driver.checkpoint_now(30)
        self.remove_job(statement.name)
        return Result(message=f"job {statement.name} stopped")

    def caught_up(self, name: str) -> bool:
        """Whether a job's bounded inputs are consumed, shown and committed; unbounded ones never are."""
        job = self.driver.jobs.get(name)
        if job is None or not job.alive:
            return True
        if job.status is not Status.RUNNING or any(n.scan is not None for n in self.driver.flow.nodes_of(name)):
            return False
        feeders = [j.name for j in self.catalog.jobs.values() if set(j.writes) & set(self.catalog.jobs[name].reads)]
        return all(map(self.caught_up, feeders)) and self.driver.settled(job)

    # -- rows ---------------------------------------------------------------------------------------------------

    @run.register
    def _update(self, statement: st.Update) -> Result:
        return self.rows.update(statement)

    @run.register
    def _delete(self, statement: st.Delete) -> Result:
        return self.rows.delete(statement)

    # -- queries ------------------------------------------------------------------------------------------------

    @run.register
    def _query(self, statement: st.Query) -> Result:
        node = self.queries.plan(statement)
        result = Result(self.queries.query(node, self._collect))
        result.warnings += [f"{n} is out of date: {describe_error(e)}" for n in tables_of(node) if (e := self._lag(n))]
        return result

    def _lag(self, view: str) -> Exception | None:
        """Why a materialized view does not show what its inputs hold, if its job or last refresh failed."""
        job = self.driver.jobs.get(view)
        behind = job is not None and job.status in (Status.FAILED, Status.RESTARTING)
        return job.error if job is not None and behind else self.refresher.errors.get(view)

    def _collect(self, scan: Scan) -> pa.Table:
        """The rows of a bounded connector table, read by a job to its end."""
        if not scan.columns:  # a batch without columns cannot say how many rows it has
            first = self.relations.schema(scan.table).field(0)
            scan = replace(scan, columns=(first.name,), schema=pa.schema([first]))
            return self._collect(scan).select([])
        lowering = self.plans.lowering(scan, replay=True)
        if not lowering.traits[id(scan)].bounded:
            raise refuse_unbounded(scan.table)
        self._check_running()
        got: list[Batch] = []
        name = self._run_aside(scan, lowering, lambda: StreamOutlet(got.extend, lambda: None))
        try:
            self._wait_aside(lambda: not self.driver.jobs[name].alive)
            job = self.driver.jobs[name]
            if job.status is Status.FAILED and job.error is not None:
                raise job.error
        finally:
            self.driver.detach(name)
        net = consolidate(got)
        rows = [] if net is None else [expand(net)]
        schema = scan.schema
        return pa.Table.from_batches([pa.RecordBatch.from_arrays(r.columns, schema=schema) for r in rows], schema)

    def _check_running(self) -> None:
        if not self.driver.running:
            raise ForebayError("nothing runs in this warehouse yet", hint="call resume() on the connection first")

    def _wait_aside(self, done: Callable[[], bool]) -> None:
        with self._aside():
            self.driver.wait(unless_interrupted(done), None)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Without the lock: other statements go on meanwhile, and what they may change is to be looked at again."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

    def _run_aside(self, node: Node, lowering: Lowering, outlet: Callable[[], Outlet]) -> str:
        self._streams += 1
        name = f"query-{self._streams}"
        self._attach(name, JobPlan((lowering.output(name, node, outlet),)), None, {})
        return name

    def stream(self, sql: str) -> ChangeStream:
        """A continuous query."""
        statements = parse(sql)
        if len(statements) == 1 and isinstance(statements[0], st.TraceJob):
            return self._follow(statements[0])
        if len(statements) != 1 or not isinstance(statements[0], st.Query):
            raise SqlError("stream takes one query, or TRACE JOB")
        node = self.plans.bind(statements[0].query, sql)
        names: list[str] = []

        def over() -> tuple[bool, Exception | None]:
            job = self.driver.jobs.get(names[0])
            if self.driver.fatal is not None or job is None:
                return True, self.driver.fatal
            return not job.alive, job.error

        stream = ChangeStream(node.schema, lambda: self.driver.detach(names[0]), over)
        names.append(
            self._run_aside(
                node, self.plans.lowering(node, replay=True), lambda: StreamOutlet(stream.deliver, stream.end)
            )
        )
        return stream

    def lookup(self, relation: str, key: Any) -> dict[str, Any] | None:
        """A row by primary key."""
        found = self.catalog.find(relation)
        if isinstance(found, View) or not found.primary_key:
            raise CatalogError(
                f"{relation} has no key to look rows up by",
                hint="a materialized view has one if its query groups by it",
            )
        return self.queries.lookup(relation, found.primary_key, key)

    def register(self, name: str, data: Any) -> None:
        """An object in memory as a table."""
        if name in self.catalog.relations:
            raise CatalogError(f"{name} already exists")
        self.relations.registered[name] = canonical_floats(as_table(data))

    def create_function(self, function: Any) -> None:
        """A user's scalar function."""
        register_udf(function)

    # -- talk ---------------------------------------------------------------------------------------------------

    @run.register
    def _explain(self, statement: st.Explain) -> Result:
        inner = statement.statement
        match inner:
            case st.Query() | st.CreateMaterializedView() | st.CreateView():
                text = explain(self.plans.bind(inner.query, inner.sql), self.relations)
            case st.Insert():
                text = explain(self.plans.sink_node(inner), self.relations)
            case st.StatementSet():
                text = "\n".join(explain(self.plans.sink_node(i), self.relations) for i in inner.inserts)
            case st.AlterJob():
                text = self._changing.explain_job(inner)
            case st.AlterMaterializedView():
                text = self._changing.explain_view(inner)
            case _:
                raise UnsupportedError("only queries, INSERT and CREATE ... AS can be explained")
        return Result(pa.table({"plan": [text]}))

    @run.register
    def _explain_state(self, statement: st.ExplainState) -> Result:
        inner, job, bound = self._to_explain(statement)
        now = self.driver.clock.now()
        made = self.options.given if statement.statement is not None else self.catalog.job(statement.job).options
        with as_bound(self.catalog, self.registry, self.relations, bound), as_made(self.options, made):
            plan = self.plans.would_run(inner)
        with self._aside():
            sources = sampled(plan, now)
        with self.driver.boundary() as flow:
            return explain_state(flow, self.driver.budget, job, plan, Volumes(flow, sources, now))

    def _to_explain(self, statement: st.ExplainState) -> tuple[st.Statement, str | None, Mapping[str, str]]:
        """(statement, the job that runs it if one does, what that was bound to)."""
        if statement.statement is None:
            known = self.catalog.job(statement.job)
            return parse(known.sql)[0], known.name, known.bound
        sql = statement.statement.sql.split()
        job = next((j.name for j in self.catalog.jobs.values() if j.sql.split() == sql), None)
        return statement.statement, job, {}

    @run.register
    def _trace_job(self, statement: st.TraceJob) -> Result:
        if statement.follows:
            with self._aside():
                return collected(self._follow(statement))
        self.catalog.job(statement.name)
        with self.driver.boundary() as flow:
            return trace(flow, statement.name, Key(statement.values), self.driver.clock.now())

    def _follow(self, statement: st.TraceJob) -> ChangeStream:
        self.catalog.job(statement.name)
        return follow(self.driver, statement.name, Key(statement.values), statement.seconds, statement.limit)

    @run.register
    def _create_savepoint(self, statement: st.CreateSavepoint) -> Result:
        return self.saving.create(statement)

    @run.register
    def _show(self, statement: st.Show) -> Result:
        if statement.what == "SAVEPOINTS":
            return self.saving.show()
        return self._shows.show(statement)

    @run.register
    def _describe(self, statement: st.Describe) -> Result:
        return self._shows.describe(statement.name)

    def _view_schema(self, view: View) -> pa.Schema:
        """The columns that a view gives now."""
        query = parse(view.sql)[0]
        assert isinstance(query, st.Query)
        schema = self.relations.binder().bind_batch(query.query, query.sql).schema
        return pa.schema([f.with_name(n) for f, n in zip(schema, view.columns or schema.names)])

    @run.register
    def _set(self, statement: st.SetOption) -> Result:
        if statement.key is None:
            names = sorted(SESSION_OPTIONS)
            return Result(
                pa.table(
                    {
                        "key": names,
                        "value": [self.options.get(n) for n in names],
                        "doc": [SESSION_OPTIONS[n].doc for n in names],
                    }
                )
            )
        self.options.set(statement.key, statement.value or "")
        self.apply_options()
        return Result(message=f"{statement.key} = {statement.value}")

    @run.register
    def _reset(self, statement: st.ResetOption) -> Result:
        self.options.reset(statement.key)
        self.apply_options()
        return Result(message="all options reset" if statement.key is None else f"{statement.key} reset")

    def apply_options(self) -> None:
        """Hand the options that the driver acts on to it, and save them."""
        self._configure_driver()
        self.save()

    def _configure_driver(self) -> None:
        self.driver.configure(
            latency=self.options.micros("execution.latency") / 1e6,
            checkpoint_interval=self.options.micros("execution.checkpointing.interval") / 1e6,
        )
        if self.driver.store is not None:
            self.driver.store.retained = self.options.count("state.checkpoints.num-retained")
        self.driver.budget.limit = self.options.budget() or machine_share()
        self.driver.flow.retain_bytes = min(self.options.bytes("state.retain.max"), self.driver.budget.limit // 4)


def _catalog_of(saved: bytes) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(saved)
    except ValueError as error:
        raise StateError(
            "the catalog is damaged; nothing was changed",
            detail=f"catalog.json: {error}",
            hint="put a copy of catalog.json in its place",
        ) from error
    return value


def _as_job(statement: st.Statement, jobs: list[dict[str, Any]]) -> st.Statement:
    """A saved relation's statement; of a materialized view as its job is known, whose state is there."""
    if not isinstance(statement, st.CreateMaterializedView) or statement.options:
        return statement
    return next((parse(job["sql"])[0] for job in jobs if job["name"] == statement.name), statement)


def _in_order(statements: Sequence[st.Statement]) -> list[st.Statement]:
    """Saved relations, each after those that its query reads: a checkpoint may know a view that the catalog does not yet."""
    names = {getattr(s, "name", ""): s for s in statements}
    done: dict[str, st.Statement] = {}
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name not in seen and name in names:
            seen.add(name)
            statement = names[name]
            if isinstance(statement, st.CreateView | st.CreateMaterializedView):
                for read in sorted(tables_named(statement.sql) - {name}):
                    visit(read)
            done[name] = statement

    for name in names:
        visit(name)
    return list(done.values())


def _as_checkpointed(job: dict[str, Any], restored: Restored) -> dict[str, Any]:
    """A saved job as the checkpoint knows it, whose state it has.

    A change that came after the checkpoint was never acknowledged; another job of the name has nothing to do with that state.
    """
    known = restored.definitions.get(job["name"])
    if known is None or job["name"] not in restored.placements:
        return job
    if job.get("id", known["id"]) != known["id"]:
        restored.placements = {name: placed for name, placed in restored.placements.items() if name != job["name"]}
        return job
    return dict(known)
