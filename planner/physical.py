"""From the typed logical plan to steps of the dataflow.

Each logical node becomes one or a few steps; a step's key is the fingerprint of its subtree, so that equal subtrees of
different jobs run once. A join stands on two *arrange* steps, which hold its inputs indexed by key: those, and not the
join, are what jobs share. A filter and the projection above it become one step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from datafusion import SessionContext

from forebay.engine.connector import Changelog
from forebay.engine.errors import InternalError, UnsupportedError
from forebay.engine.expression import Output, Program
from forebay.engine.operators.base import Operator
from forebay.engine.operators.consolidate import ConsolidateOperator, RenameOperator
from forebay.engine.operators.expiry import UNDATED, GroupLife
from forebay.engine.operators.horizon import Lifetime
from forebay.engine.operators.join import STAMP, ArrangeOperator, JoinOperator, JoinSpec
from forebay.engine.operators.lens import Lens
from forebay.engine.operators.project import FilterProjectOperator, UnionOperator
from forebay.engine.operators.remember import RememberOperator
from forebay.engine.operators.table import KeyedTableOperator, TableOperator
from forebay.engine.operators.unnest import UnnestOperator
from forebay.engine.runtime.memory import MemorySource
from forebay.engine.runtime.outbox import Outlet
from forebay.engine.runtime.plan import (
    Build,
    JobPlan,
    OperatorStep,
    OutputStep,
    RelationStep,
    ScanStep,
    Step,
    reads_history,
)
from forebay.engine.runtime.scan import ScanSpec
from forebay.engine.state.arrangement import Arrangement
from forebay.planner import grouped, programs
from forebay.planner import nodes as plan
from forebay.planner.access import Reads
from forebay.planner.canonical import fingerprint
from forebay.planner.changelog import covers, infer, remembers_output
from forebay.planner.expr import Column, Expr
from forebay.planner.exprs import is_volatile
from forebay.planner.grouped import Make
from forebay.planner.lifetimes import has_watermark, repeats, timed
from forebay.planner.plansql import plan_to_sql
from forebay.planner.sources import Tables, TableSource
from forebay.planner.stored import stored_side

_REPLAY = "/replay"
"""Ends the key of what a history flows through: it is no state until the end of the history."""


@dataclass(slots=True)
class Lowering:
    """Lowers the logical plans of one job. Equal subtrees of its outputs become one step object."""

    tables: Tables
    context: SessionContext
    traits: dict[int, plan.Traits]
    """By `id` of node."""
    reads: Reads
    """What all the job's outputs together read of each table: a scan is opened once."""
    replay: bool | None = None
    """Whether histories of tables flow through the job; None: as each table says."""
    ttl: int = 0
    """How long state lives of which neither a hint nor a table speaks, in ms; 0: for ever."""
    _steps: dict[str, Step] = field(default_factory=dict)
    _kept: list[plan.Node] = field(default_factory=list)
    _ttls: dict[str, list[int | None]] = field(default_factory=dict)
    """Per arrangement what its joins look back."""
    _numbers: int = 0

    # -- outputs ------------------------------------------------------------------------------------------------

    def view(self, name: str, node: plan.Node) -> JobPlan:
        """A materialized view: its contents arranged by a unique key, or by whole rows.

        Where what it shows is forgotten below after a while a new row replaces the one of its key, as in a sink.
        """
        keys = self.traits[id(node)].keys
        key = min(keys, key=len) if keys else None
        source = self.lower(node)
        everything = tuple(range(len(node.schema)))

        if key and repeats(node, self.tables, self.ttl):
            source = self._consolidated(source)

            def make(_: Sequence[Operator | None]) -> Operator:
                return TableOperator(node.schema, key)
        else:

            def make(_: Sequence[Operator | None]) -> Operator:
                return ArrangeOperator(Arrangement(node.schema, key or everything, key or None))

        step = OperatorStep(node.schema, f"view:{name}", f"View({name})", None, (source,), make, name, build=Build())
        return JobPlan((step,))

    def output(self, name: str, node: plan.Node, outlet: Callable[[], Outlet]) -> OutputStep:
        """The job's end: `outlet` takes `node`'s changes as they are."""
        return OutputStep(node.schema, f"out:{name}", f"Sink({name})", None, self._named(node), outlet)

    def sink(
        self,
        name: str,
        table: str,
        node: plan.Node,
        changelog: Changelog,
        primary_key: tuple[int, ...],
        outlet: Callable[[], Outlet],
    ) -> OutputStep:
        """An external sink, fed the changelog that `table` takes.

        Raises:
            UnsupportedError: the sink takes insertions only and the query updates its results.
        """
        traits = self.traits[id(node)]
        source = self._named(node)
        if changelog is Changelog.APPEND and traits.updating:
            raise UnsupportedError(
                f"table {table} takes insertions only, but the query updates and deletes rows",
                hint="write to an upsert sink (upsert-kafka with a PRIMARY KEY), or use a changelog format such as "
                "debezium-json",
            )
        if traits.updating:
            if changelog is Changelog.UPSERT and not covers(traits.keys, primary_key):
                source = self._upsert(source, primary_key, self._default_life(node))
            source = self._consolidated(source)
        append = changelog is Changelog.APPEND
        return OutputStep(
            node.schema, f"sink:{name}", f"Sink({name})", None, source, outlet, reads_history(source), append
        )

    def _named(self, node: plan.Node) -> Step:
        """The node's rows under its own column names: an equal subtree elsewhere may use others."""
        step = self.lower(node)
        if step.schema.names == node.schema.names:
            return step
        return self._operator(node.schema, "Rename", None, (step,), lambda _: RenameOperator(node.schema), rowwise=True)

    def _consolidated(self, source: Step) -> Step:
        schema = source.schema
        return self._operator(schema, "Consolidate", None, (source,), lambda _: ConsolidateOperator(schema))

    def _upsert(self, source: Step, key: tuple[int, ...], life: GroupLife) -> Step:
        make = grouped.upsert_key(source.schema, key, life)
        return self._operator(source.schema, f"UpsertKey({key})", None, (source,), make, "", True)

    def _default_life(self, node: plan.Node) -> GroupLife:
        """How long what is kept of the node's rows lives by the session's option."""
        return self._life(node, self.ttl, "") if self.ttl else UNDATED

    def _life(self, node: plan.Node, ttl: int, table: str) -> GroupLife:
        """Groups of the node's rows that live for so many ms (0: for ever) by the option of the table."""
        time = next(iter(self.traits[id(node)].time), None)
        arrival = time is None or not has_watermark(node, self.tables)
        return GroupLife(Lifetime(ttl * 1000 or None, arrival, table), True, time)

    # -- nodes --------------------------------------------------------------------------------------------------

    def lower(self, node: plan.Node) -> Step:
        """The step of a logical node, made once per equal subtree."""
        print_ = fingerprint(node)
        known = self._steps.get(print_)
        if known is None:
            known = self._steps[print_] = self._lower(node)
        return known

    def _lower(self, node: plan.Node) -> Step:
        match node:
            case plan.Scan():
                return self._scan(node)
            case plan.Project(input=plan.Filter() as below) if not remembers_output(below, self.traits):
                return self._filter_project(node, below.input, below.predicate, node.exprs)
            case plan.Project():
                return self._filter_project(node, node.input, None, node.exprs)
            case plan.Filter():
                return self._filter_project(node, node.input, node.predicate, None)
            case plan.Union():
                sources = tuple(self.lower(p) for p in node.parts)
                return self._operator(node.schema, "Union", node, sources, lambda _: UnionOperator(node.schema))
            case plan.Join():
                return self._join(node)
            case plan.Aggregate():
                return self._aggregate(node)
            case plan.Rank():
                return self._rank(node)
            case plan.WindowTable():
                return self._window_table(node)
            case plan.WindowAggregate():
                return self._window_aggregate(node)
            case plan.Unnest():
                return self._unnest(node)
            case plan.Values():
                return self._values(node)
        raise UnsupportedError(f"{type(node).__name__} cannot run continuously yet")

    def _operator(
        self,
        schema: pa.Schema,
        label: str,
        node: plan.Node | None,
        sources: tuple[Step, ...],
        make: Make,
        tag: str = "",
        remembers: bool = False,
        *,
        rowwise: bool = False,
        build: Build | None = None,
    ) -> OperatorStep:
        self._numbers += 1
        shareable = all(s.key is not None or isinstance(s, RelationStep) for s in sources)
        tag += _REPLAY if any(s.key is not None and s.key.endswith(_REPLAY) for s in sources) else ""
        work = f"{label} of {[s.print for s in sources]}"
        if node is not None:
            work = "@".join([fingerprint(node), *sorted(frozenset().union(*(s.lineages for s in sources)))]) + tag
        key = work if shareable and node is not None and not _volatile(node) else None
        return OperatorStep(
            schema,
            f"{self._numbers}",
            label,
            key,
            sources,
            make,
            work=work,
            remembers=remembers,
            rowwise=rowwise,
            build=build,
        )

    def _scan(self, node: plan.Scan) -> Step:
        source = self.tables.source(node.table, self.reads[node.table, node.options], dict(node.options))
        if source is None:
            step: Step = RelationStep(
                self.tables.schema(node.table), f"table:{node.table}", node.table, None, node.table
            )
            return self._pick(node, step, ())
        path = f"scan:{source.identity}"
        known = self._steps.get(path)
        if known is None:
            known = self._steps[path] = self._raw(node.table, path, source)
        return self._pick(node, known, source.computed)

    def _raw(self, table: str, path: str, source: TableSource) -> Step:
        """The table's own rows: read, and of an upsert table made a changelog."""
        scan, past, end = source.scan, source.past, ""
        if past is not None and (past.replay if self.replay is None else self.replay):
            scan, end = replace(scan, open=past.chained), _REPLAY
        history = None if past is None or end else past.history
        key = path + end if source.shareable else None
        step = ScanStep(scan.schema, path + end, f"Scan({table})", key, scan, history)
        if source.changelog is not Changelog.UPSERT:
            return step
        tag = "/normalize" + (f" for {source.life.life.ttl}" if source.life.dated else "")
        named, key = f"normalize:{step.path}", None if key is None else f"{path}{tag}{end}"
        work = f"{step.print}{tag}"
        if past is None:
            plain = grouped.normalize(scan.schema, source.key, source.life)
            return OperatorStep(scan.schema, named, "Normalize", key, (step,), plain, work=work, remembers=True)
        build = Build(replaces=True, version=past.version)

        def make(_: Sequence[Operator | None]) -> Operator:
            return KeyedTableOperator(scan.schema, source.key, past.version)

        label = f"Newest(by {list(source.key)})"
        return OperatorStep(
            scan.schema, named, label, key, (step,), make, work=work, remembers=True, build=build, keyed=source.key
        )

    def _pick(self, node: plan.Scan, step: Step, computed: tuple[Output, ...]) -> Step:
        """The scan's columns, computed ones evaluated, from the table's."""
        known = {o.field.name: o.sql for o in computed}
        outputs = []
        for name, wanted in zip(node.columns, node.schema):
            column = None if name in known else step.schema.get_field_index(name)
            outputs.append(Output(wanted, column, known.get(name)))
        if [o.column for o in outputs] == list(range(len(step.schema))):
            return step

        def make(_: Sequence[Operator | None]) -> Operator:
            return FilterProjectOperator(node.schema, None, None, Program(self.context, step.schema, outputs))

        return self._operator(node.schema, f"Pick({', '.join(node.columns)})", node, (step,), make, rowwise=True)

    def _filter_project(
        self, node: plan.Node, below: plan.Node, condition: Expr | None, exprs: tuple[Expr, ...] | None
    ) -> Step:
        step = self.lower(below)
        plain = exprs is not None and exprs == tuple(map(Column, range(len(step.schema))))
        if condition is None and plain and step.schema.equals(node.schema):
            return step
        return self._program(node, step, condition, None if plain else exprs, type(node).__name__)

    def _program(
        self, node: plan.Node, step: Step, condition: Expr | None, exprs: Sequence[Expr] | None, label: str
    ) -> Step:
        remembers = remembers_output(node, self.traits)
        masked = None if condition is None else programs.condition(self.context, step.schema, condition)
        project = None if exprs is None else programs.projection(self.context, step.schema, exprs, node.schema)

        def make(_: Sequence[Operator | None]) -> Operator:
            mask = None if masked is None else masked()
            pick, program = (None, None) if project is None else project()
            if remembers:
                return RememberOperator(step.schema, node.schema, mask, pick, program)
            return FilterProjectOperator(node.schema, mask, pick, program)

        return self._operator(node.schema, label, node, (step,), make, "", remembers, rowwise=not remembers)

    def _join(self, node: plan.Join) -> Step:
        left, left_keys, left_lens, left_life = self._stored(node, 0, node.left_keys)
        right, right_keys, right_lens, right_life = self._stored(node, 1, node.right_keys)
        both = pa.schema([*node.left.schema, *node.right.schema])
        residual = None if node.residual is None else programs.condition(self.context, both, node.residual)

        def make(inputs: Sequence[Operator | None]) -> Operator:
            spec = JoinSpec(
                kind=node.kind.value,
                left_keys=left_keys,
                right_keys=right_keys,
                schema=node.schema,
                null_equals_null=node.null_equals_null,
                null_aware=node.null_aware,
                residual=None if residual is None else residual(),
                left_lens=left_lens(),
                right_lens=right_lens(),
                lives=(left_life, right_life),
            )
            first, second = inputs
            if not isinstance(first, ArrangeOperator) or not isinstance(second, ArrangeOperator):
                raise InternalError("a join stands on two arrangements")
            return JoinOperator(spec, first.arrangement, second.arrangement)

        step = self._operator(node.schema, f"Join({node.kind.value})", node, (left, right), make, "", True)
        on = hashlib.sha256(f"{left.print} {right.print}".encode()).hexdigest()[:16]
        key = None if step.key is None else f"{step.key}/on {on}"
        return replace(step, key=key, work=f"{step.work}/on {on}", stored=on)

    def _stored(
        self, join: plan.Join, number: int, keys: tuple[int, ...]
    ) -> tuple[Step, tuple[int, ...], Callable[[], Lens | None], Lifetime]:
        """A side of a join: its arrangement, the keys in it, what makes the lens through which the join sees it, and how long."""
        node, ttl = join.inputs[number], join.ttl[number]
        side = stored_side(node, keys, self.tables)
        stored = side.table if side is not None else timed(node, self.tables) if ttl else node
        self.traits.update(infer(stored, self.tables))
        self._kept.append(stored)  # traits are by id
        stamped = ttl is not None and not self.traits[id(stored)].time
        step = self._arrange(stored, keys if side is None else side.keys, stamped, None if ttl is None else ttl * 1000)
        life = Lifetime(
            ttl=None if ttl is None else ttl * 1000,
            arrival=stamped or not has_watermark(stored, self.tables),
            table=join.ttl_of[number],
        )
        if side is not None:
            return step, side.keys, lambda: programs.lens(self.context, side, node.schema, stamped), life
        if len(step.schema) == len(node.schema):
            return step, keys, lambda: None, life
        columns = tuple(range(len(node.schema)))
        return step, keys, lambda: Lens(columns, node.schema, lambda rows: (rows, None), filters=False), life

    def kept(self, table: plan.Scan, key: tuple[int, ...], stamped: bool) -> Step:
        """A table's rows by key, for nobody in particular."""
        return self._arrange(table, key, stamped, None)

    def _arrange(self, node: plan.Node, key: tuple[int, ...], stamped: bool, ttl: int | None) -> Step:
        """The node's rows by key; `stamped`: each with the time at which it came. `ttl`: how long the join sees them, in µs."""
        source = self.lower(node)
        if isinstance(source, OperatorStep) and source.keyed == key and ttl is None:
            return source
        tag = f"/by{key}" + ("/stamped" if stamped else "")
        self._ttls.setdefault(fingerprint(node) + tag, []).append(ttl)
        ttls = self._ttls[fingerprint(node) + tag]
        known = self._steps.get(fingerprint(node) + tag)
        if known is not None:
            return known
        keys = self.traits[id(node)].keys
        identity = min(keys, key=len) if keys else None
        schema = node.schema.append(STAMP) if stamped else node.schema
        time = len(node.schema) if stamped else next(iter(self.traits[id(node)].time), None)

        def make(_: Sequence[Operator | None]) -> Operator:
            return ArrangeOperator(Arrangement(schema, key, identity, time=time, stamped=stamped))

        def suits(running: Operator, watermark: int | None) -> bool:
            return isinstance(running, ArrangeOperator) and all(running.reaches(ttl, watermark) for ttl in ttls)

        made = self._operator(schema, f"Arrange(by {list(key)})", node, (source,), make, tag, True, build=Build())
        step = replace(made, suits=suits, lives=ttls)
        self._steps[fingerprint(node) + tag] = step
        return step

    def _aggregate(self, node: plan.Aggregate) -> Step:
        below, life = self._grouped(node)
        make = grouped.aggregate(node, below.schema, life, self._appends(node.input))
        return self._operator(node.schema, "Aggregate", node, (self.lower(below),), make, "", True)

    def _grouped(self, node: plan.Aggregate | plan.Rank) -> tuple[plan.Node, GroupLife]:
        """What the node reads, with the time of its rows where that is needed, and how long groups live."""
        if node.ttl is None:
            return node.input, GroupLife(Lifetime(table=node.ttl_of))
        below = timed(node.input, self.tables)
        self.traits.update(infer(below, self.tables))
        self._kept.append(below)  # traits are by id
        return below, self._life(below, node.ttl, node.ttl_of)

    def _appends(self, node: plan.Node) -> bool:
        return not self.traits[id(node)].updating

    def _rank(self, node: plan.Rank) -> Step:
        below, life = self._grouped(node)
        make = grouped.rank(node, life, self._appends(node.input))
        return self._operator(node.schema, "Rank", node, (self.lower(below),), make, "", True)

    def _window_table(self, node: plan.WindowTable) -> Step:
        make = grouped.window_table(node)
        return self._operator(node.schema, "WindowTable", node, (self.lower(node.input),), make)

    def _window_aggregate(self, node: plan.WindowAggregate) -> Step:
        make = grouped.window_aggregate(node, self._appends(node.input))
        return self._operator(node.schema, "WindowAggregate", node, (self.lower(node.input),), make, "", True)

    def _unnest(self, node: plan.Unnest) -> Step:
        (column,) = node.columns
        source = self.lower(node.input)
        return self._operator(
            node.schema, "Unnest", node, (source,), lambda _: UnnestOperator(node.schema, column, outer=node.outer)
        )

    def _values(self, node: plan.Values) -> Step:
        """The rows are computed once, and read like any bounded source."""
        if len(node.schema):
            rows = self.context.sql(plan_to_sql(node)).to_arrow_table()
            rows = pa.Table.from_arrays([c.cast(f.type) for c, f in zip(rows.columns, node.schema)], schema=node.schema)
        else:
            rows = pa.table({"row": pa.nulls(len(node.rows), pa.int8())})
        self._numbers += 1
        volatile = any(is_volatile(e) for row in node.rows for e in row)
        key = None if volatile else f"values:{fingerprint(node)}"
        scan = ScanSpec("VALUES", lambda _: MemorySource(rows), rows.schema, None)
        step = ScanStep(rows.schema, f"values:{self._numbers}", "Values", key, scan)
        return step if len(node.schema) else self._program(node, step, None, (), "Values")


def _volatile(node: plan.Node) -> bool:
    """Whether the node itself, its inputs apart, may give other results for equal inputs."""
    match node:
        case plan.Project():
            return any(map(is_volatile, node.exprs)) or _volatile_filter(node.input)
        case plan.Filter():
            return is_volatile(node.predicate)
        case plan.Join():
            return node.residual is not None and is_volatile(node.residual)
    return False


def _volatile_filter(node: plan.Node) -> bool:
    return isinstance(node, plan.Filter) and is_volatile(node.predicate)
