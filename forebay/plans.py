"""From statements to plans: queries bound, INSERTs assigned to their tables, jobs lowered down to the outlets of their sinks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlglot import exp

from forebay.altering import checked
from forebay.bound import as_bound, as_made
from forebay.context import Context
from forebay.engine.connector import Changelog
from forebay.engine.errors import CatalogError, OptionError, UnsupportedError
from forebay.engine.runtime.outbox import Outbox, OutboxSpec, Outlet, StreamOutlet
from forebay.engine.runtime.plan import JobPlan
from forebay.planner import statements as st
from forebay.planner.access import scan_reads
from forebay.planner.assign import assigned
from forebay.planner.changelog import infer
from forebay.planner.dialect.script import parse
from forebay.planner.functions import session_context
from forebay.planner.nodes import Node
from forebay.planner.nodes import Sink as SinkNode
from forebay.planner.physical import Lowering
from forebay.planner.tableoptions import check_connector
from forebay.planner.tables import Table
from forebay.rows import TableOutlet
from forebay.snapshots import scans_of

Key = tuple[str, ...]


class Plans:
    """Plans statements against one warehouse; nothing is changed by it."""

    def __init__(self, context: Context) -> None:
        self._warehouse = context.warehouse
        self._driver = context.driver
        self._catalog = context.catalog
        self._relations = context.relations
        self._options = context.options
        self._registry = context.registry

    def bind(self, query: exp.Expression, sql: str, columns: tuple[str, ...] = ()) -> Node:
        """A query's logical plan."""
        return self._relations.binder().bind(query, sql, columns)

    def assigned(self, statement: st.Insert, table: Table) -> Node:
        """An INSERT's query, as the columns of its table."""
        if statement.options and table.embedded:
            raise OptionError(f"{table.name} takes no OPTIONS hint", hint="only tables of a connector have options")
        if statement.options:
            check_connector(replace(table, options={**table.options, **statement.options}), self._registry)
        query = self._relations.binder().bind(statement.query, statement.sql)
        return assigned(query, table.name, table.writable(), statement.columns or None, statement.sql)

    def lowering(self, *roots: Node, replay: bool | None = None) -> Lowering:
        """What makes steps of these plans. `replay`: whether histories of tables flow through; None: as the tables say."""
        traits = {key: found for root in roots for key, found in infer(root, self._relations).items()}
        reads, ttl = scan_reads(roots, self._relations), self._options.micros("table.exec.state.ttl") // 1000
        return Lowering(self._relations, session_context(), traits, reads, replay, ttl)

    def job(self, name: str, inserts: Sequence[st.Insert], nodes: Sequence[Node]) -> JobPlan:
        """The physical plan of a job, `nodes` being its assigned queries."""
        lowering = self.lowering(*nodes)
        pairs = enumerate(zip(inserts, nodes))
        return JobPlan(tuple(self._output(lowering, name, number, i, node) for number, (i, node) in pairs))

    def _output(self, lowering: Lowering, job: str, number: int, insert: st.Insert, node: Node) -> Any:
        table = self._catalog.table(insert.target)
        label = f"{job}-{number}-{table.name}"
        key = tuple(node.schema.get_field_index(k) for k in table.primary_key)
        if table.embedded:
            changelog = Changelog.UPSERT if key else Changelog.RETRACT
            queue = functools.partial(self._driver.queue, table.name)
            return lowering.sink(label, table.name, node, changelog, key, lambda: TableOutlet(table, queue))
        spec = OutboxSpec(
            label,
            lambda: self._relations.sink(table, insert.options, label),
            node.schema,
            self._warehouse.outbox_directory(label),
            self._warehouse.files,
            self._options.bytes("sink.outbox.max"),
        )
        restored = self._warehouse.restored.outboxes.get(label)

        def outlet() -> Outlet:
            return Outbox(spec, self._driver.checkpoint_id + 1, restored)

        changelog = self._relations.sink_changelog(table, insert.options)
        return lowering.sink(label, table.name, node, changelog, key, outlet)

    def would_run(self, statement: st.Statement) -> JobPlan:
        """The plan of a statement that is not carried out."""
        match statement:
            case st.CreateMaterializedView():
                node = self.bind(statement.query, statement.sql)
                return self.lowering(node).view(statement.name, node)
            case st.Query():
                node = self.bind(statement.query, statement.sql)
                ignore = StreamOutlet(lambda batches: None, lambda: None)
                return JobPlan((self.lowering(node).output("query", node, lambda: ignore),))
            case st.Insert() | st.StatementSet():
                inserts = inserts_of(statement)
                nodes = [self.assigned(i, self._catalog.table(i.target)) for i in inserts]
                return self.job("job", inserts, nodes)
        raise UnsupportedError("only queries, INSERT and CREATE MATERIALIZED VIEW have state to explain")

    def sink_node(self, insert: st.Insert) -> SinkNode:
        """An INSERT's plan down to its table."""
        table = self._catalog.table(insert.target)
        node = self.assigned(insert, table)
        upserts = table.embedded or self._relations.sink_changelog(table, insert.options) is Changelog.UPSERT
        key = tuple(node.schema.get_field_index(k) for k in table.primary_key) if upserts else ()
        return SinkNode(node.schema, node, table.name, tuple(sorted(insert.options.items())), key)

    def _appends(self, table: Table, insert: st.Insert) -> bool:
        return not table.embedded and self._relations.sink_changelog(table, insert.options) is Changelog.APPEND

    def alteration(self, statement: st.AlterJob) -> tuple[JobPlan, JobPlan | None, bool, tuple[str, ...]]:
        """(new plan, plan as it is if sinks get the difference, whether state may be lost, tables that it reads)."""
        job, inserts = self._catalog.job(statement.name), inserts_of(statement.body)
        if job.name in self._catalog.relations:
            raise CatalogError(
                f"{job.name} is a materialized view", hint=f"ALTER MATERIALIZED VIEW {job.name} AS SELECT ..."
            )
        append = [self._appends(self._catalog.table(i.target), i) for i in inserts]
        lose, difference = checked(statement.options, any(append))
        nodes = [self.assigned(i, self._catalog.table(i.target)) for i in inserts]
        plan = self.job(job.name, inserts, nodes)
        reads = tuple(sorted({table for node in nodes for table in tables_of(node)}))
        former = None
        if difference:
            bound = as_bound(self._catalog, self._registry, self._relations, job.bound)
            with bound, as_made(self._options, job.options):
                before = inserts_of(parse(job.sql)[0])
                former = self.job(job.name, before, [self.assigned(i, self._catalog.table(i.target)) for i in before])
        return plan, former, lose, reads

    def view(self, name: str, query: exp.Expression, sql: str, columns: tuple[str, ...]) -> tuple[Node, JobPlan, Key]:
        """(logical plan, physical plan, primary key) of a materialized view; `columns`: its names for the query's, if it has."""
        node = self.bind(query, sql, columns)
        lowering = self.lowering(node, replay=False)
        keys = lowering.traits[id(node)].keys
        key = tuple(node.schema.names[i] for i in min(keys, key=len)) if keys else ()
        return node, lowering.view(name, node), key


def inserts_of(statement: st.Statement) -> tuple[st.Insert, ...]:
    """The INSERTs of a job's statement."""
    assert isinstance(statement, st.Insert | st.StatementSet)
    return statement.inserts if isinstance(statement, st.StatementSet) else (statement,)


def tables_of(node: Node) -> tuple[str, ...]:
    """Names of the relations that a plan reads."""
    return tuple(sorted({scan.table for scan in scans_of(node)}))
