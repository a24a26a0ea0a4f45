"""The catalog as binding and lowering see it: schemas and keys of relations, and how connectors' tables are opened."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlglot import exp

from forebay.connectors.bootstrap import (
    Bootstrap,
    ChainedSource,
    HistorySource,
    Seam,
    SeamSource,
    bootstrap_of,
    refuse_gap,
)
from forebay.engine.connector import MEMORY, Changelog, Registry, Sink, Source, TableSpec
from forebay.engine.errors import OptionError, UnsupportedError
from forebay.engine.expression import Output, Program
from forebay.engine.files import Clock
from forebay.engine.operators.expiry import UNDATED, GroupLife
from forebay.engine.operators.horizon import Lifetime
from forebay.engine.runtime.memory import MemorySource
from forebay.engine.runtime.plan import History
from forebay.engine.runtime.scan import ScanSpec
from forebay.engine.runtime.watermark import WatermarkSpec
from forebay.engine.types import SqlType, from_arrow
from forebay.planner.binder import Binder
from forebay.planner.catalog import Catalog
from forebay.planner.dialect.flink import Flink
from forebay.planner.dialect.script import parse, parse_expression
from forebay.planner.expr import Expr
from forebay.planner.exprs import columns_of, moved
from forebay.planner.functions import session_context
from forebay.planner.nodes import Node, Project
from forebay.planner.options import Options
from forebay.planner.render import to_sql
from forebay.planner.rewrite import Relation
from forebay.planner.sources import Past, TableSource
from forebay.planner.statements import Query
from forebay.planner.tableoptions import STATE, alignment, check_connector, state_columns, state_ttl
from forebay.planner.tables import MaterializedView, SystemStream, Table, View

_FIXED_STARTS = ("earliest-offset", "specific-offsets", "timestamp")
_EARLIEST = ("log", "upsert-log", "upsert-kafka")
"""Connectors that start at the earliest offset unless told otherwise."""

STATES = "state."
"""Before the name of a piece of state, in a query."""
_memories = itertools.count(1)


class Relations:
    """Implements the binder's `CatalogView` and the lowering's `Tables`."""

    def __init__(self, catalog: Catalog, registry: Registry, options: Options, path: Path | None) -> None:
        self.catalog = catalog
        self.registry = registry
        self.options = options
        self.warehouse = f"{MEMORY}{next(_memories)}" if path is None else str(path)
        """What connectors know the warehouse by: no two in memory share their topics."""
        self.registered: dict[str, pa.Table] = {}
        self._hidden: dict[str, pa.Schema] = {}
        self.states: Callable[[], Mapping[str, pa.Schema]] = dict
        """Schemas of the state that can be queried, by name without STATES."""

    # -- for binding --------------------------------------------------------------------------------------------

    def relation(self, name: str, options: tuple[tuple[str, str], ...] = ()) -> Relation | None:
        """What binding needs to know of a name."""
        if name in self._hidden:
            return Relation(name, self._hidden[name])
        if name in self.registered:
            return Relation(name, self.registered[name].schema, bounded=True)
        if name.startswith(STATES) and name not in self.catalog.relations:
            schema = self.states().get(name.removeprefix(STATES))
            return None if schema is None else Relation(name, schema, updating=True)
        found = self.catalog.relations.get(name)
        if options and found is not None:
            if not isinstance(found, Table) or found.embedded:
                raise OptionError(f"{name} takes no OPTIONS hint", hint="only tables of a connector have options")
            check_connector(replace(found, options={**found.options, **dict(options)}), self.registry)
        match found:
            case Table():
                return self._table_relation(found, dict(options))
            case SystemStream():
                return Relation(name, found.schema)
            case MaterializedView():
                return Relation(name, found.schema, found.primary_key, updating=True)
            case View():
                query = parse(found.sql)[0]
                assert isinstance(query, Query)
                return Relation(name, pa.schema([pa.field(c, pa.null()) for c in found.columns]), view=query.query)
        return None

    def relation_names(self) -> Iterable[str]:
        return [*self.catalog.relations, *self.registered, *(STATES + n for n in self.states())]

    def _table_relation(self, table: Table, options: Mapping[str, str]) -> Relation:
        time = (table.watermark[0],) if table.watermark is not None else ()
        ttl = state_ttl({**table.options, **options})
        if table.embedded:
            return Relation(table.name, table.schema(), table.primary_key, updating=True, ttl=ttl)
        source = self._open(table, options, None)
        replaced = bool(table.primary_key) and self.bootstrap(table, options) is not None
        updating = replaced or source.changelog is not Changelog.APPEND
        key = table.primary_key if updating else ()
        return Relation(table.name, table.schema(), key, updating, time, source.bounded, ttl)

    def binder(self) -> Binder:
        return Binder(self, self.options.micros("table.exec.state.ttl") // 1000)

    def types(self, texts: Sequence[str], schema: pa.Schema) -> list[SqlType]:
        """Types of expression texts over a schema."""
        return [from_arrow(f.type, f.nullable) for f in self._bound(texts, schema).schema]

    def _bound(self, texts: Sequence[str], schema: pa.Schema) -> Node:
        """A plan that computes the expressions over a hidden relation of that schema."""
        name = "__row"
        self._hidden[name] = schema
        try:
            select = parse(f"SELECT 1 AS x FROM {name}")[0]
            assert isinstance(select, Query)
            select.query.set(
                "expressions", [parse_expression(t).as_(f"e{i}", quoted=True) for i, t in enumerate(texts)]
            )
            return self.binder().bind(select.query)
        finally:
            del self._hidden[name]

    def expressions(self, texts: Sequence[str], schema: pa.Schema) -> list[str]:
        """The expressions as the evaluator's SQL over columns "c0", "c1", ... of the schema."""
        node = self._bound(texts, schema)
        assert isinstance(node, Project)
        scan = node.input
        places = [f'"c{schema.get_field_index(n)}"' for n in scan.schema.names]
        return [to_sql(e, places) for e in node.exprs]

    # -- for lowering -------------------------------------------------------------------------------------------

    def schema(self, table: str) -> pa.Schema:
        """All readable columns of a relation."""
        if table in self.registered:
            return self.registered[table].schema
        found = self.catalog.find(table)
        if isinstance(found, View):
            raise UnsupportedError(f"{table} is a view")
        return found.schema() if isinstance(found, Table) else found.schema

    def source(self, table: str, columns: frozenset[str], options: Mapping[str, str]) -> TableSource | None:
        """How to read a connector's table; None for an embedded table or a materialized view.

        `columns`: names, and dotted paths of fields, of what is read.
        """
        if table in self.registered:
            return self._memory_source(table)
        if table.startswith(STATES) and table not in self.catalog.relations:
            raise UnsupportedError(f"{table} can be queried, not followed", hint="read the tables that it is made of")
        found = self.catalog.find(table)
        if not isinstance(found, Table) or found.embedded:
            return None
        stored = found.stored()
        source = self._open(found, options, None)
        past = self._past(found, options)
        changelog = Changelog.UPSERT if past is not None and found.primary_key else source.changelog
        needed = self._needed(found, columns) if changelog is Changelog.APPEND else None
        scan = ScanSpec(
            table,
            lambda wanted: self._open(found, options, wanted),
            stored,
            needed,
            self._watermark(found, source.bounded),
            _identity(replace(found, columns=tuple(c for c in found.columns if c.expression or c.metadata)), options),
        )
        merged = {**found.options, **options}
        default = "earliest-offset" if merged["connector"] in _EARLIEST else "group-offsets"
        mode = merged.get("scan.startup.mode", default)
        return TableSource(
            scan=scan,
            changelog=changelog,
            shareable=source.bounded or mode in _FIXED_STARTS or past is not None,
            identity=_identity(found, options),
            key=tuple(stored.get_field_index(k) for k in found.primary_key),
            computed=self._computed(found, stored, columns),
            past=past,
            life=UNDATED if past is not None else self._life(found, stored, merged),
        )

    def _life(self, table: Table, stored: pa.Schema, options: Mapping[str, str]) -> GroupLife:
        """How long upserts of the table are kept: where the session says that they end, by its word or the table's."""
        default, own = self.options.micros("table.exec.state.ttl"), state_ttl(options)
        if not default:
            return UNDATED
        time = stored.get_field_index(table.watermark[0]) if table.watermark is not None else -1
        ttl = default if own is None else own * 1000
        return GroupLife(Lifetime(ttl or None, time < 0, table.name), True, None if time < 0 else time)

    def bootstrap(self, table: Table, options: Mapping[str, str] = {}) -> Bootstrap | None:
        """The history of a connector's table, as its options say.

        Raises:
            OptionError: they do not fit.
        """
        time = None if table.watermark is None else table.watermark[0]
        return bootstrap_of(self.spec(table, options), time)

    def _past(self, table: Table, options: Mapping[str, str]) -> Past | None:
        found = self.bootstrap(table, options)
        if found is None:
            return None

        def history(columns: frozenset[str] | None) -> Source:
            spec = self.spec(table, options, read_columns=_wanted(columns, found.seam))
            time = found.seam.column if found.seam is not None else found.version or (table.watermark or ("",))[0]
            source = HistorySource(self.registry, spec, found.until, Clock(), time or None)
            return source if found.seam is None else SeamSource(source, found.seam.history)

        def check() -> None:
            refuse_gap(table.name, found, self._open(table, options, None).beginnings())

        def chained(columns: frozenset[str] | None) -> Source:
            return ChainedSource(history(columns), self._open(table, options, columns))

        version = None if found.version is None else table.stored().get_field_index(found.version)
        return Past(History(history, check), found.replay, chained, version)

    def stored(self, table: str, options: tuple[tuple[str, str], ...]) -> pa.Schema | None:
        """The columns that joins of a connector's table store; None where each stores what it uses."""
        found = self.catalog.relations.get(table)
        if table in self.registered or not isinstance(found, Table) or found.embedded:
            return None
        names = state_columns({**found.options, **dict(options)}, found)
        if names is not None and found.watermark is not None and found.watermark[0] not in names:
            names.append(found.watermark[0])  # tells how old a row is
        return None if names is None else pa.schema([found.schema().field(n) for n in names])

    def computed(self, table: str, name: str, schema: pa.Schema) -> Expr | None:
        """A computed column over columns of the table; None if it needs others than those of `schema`."""
        found = self.catalog.table(table)
        node = self._bound([found.column(name).expression or ""], found.stored())
        assert isinstance(node, Project)
        places = [schema.get_field_index(n) for n in node.input.schema.names]
        (expr,) = node.exprs
        return None if -1 in (places[c] for c in columns_of(expr)) else moved(expr, places.__getitem__)

    def _memory_source(self, name: str) -> TableSource:
        data = self.registered[name]
        scan = ScanSpec(name, lambda _: MemorySource(data), data.schema, None)
        return TableSource(scan, Changelog.APPEND, True, f"registered:{name}:{id(data)}")

    def _open(self, table: Table, options: Mapping[str, str], columns: frozenset[str] | None) -> Any:
        connector = self.registry.connector(table.options["connector"])
        if connector.source is None:
            raise UnsupportedError(f"connector '{connector.name}' of {table.name} can be written only")
        found = self.bootstrap(table, options)
        if found is None:
            return connector.source(self.spec(table, options, read_columns=_wanted(columns, None)))
        spec = self.spec(table, options, read_columns=_wanted(columns, found.seam), begin=found.until // 1000)
        source = connector.source(spec)
        if found.seam is None or source.changelog is not Changelog.APPEND:  # a row of the history may be taken away
            return source
        return SeamSource(source, found.seam.stream)

    def spec(self, table: Table, options: Mapping[str, str] = {}, **more: Any) -> TableSpec:
        """The table as a connector sees it."""
        return table.spec(options=options, warehouse=self.warehouse, **more)

    def reading(self, table: Table) -> Source:
        """What reads the table; nothing is opened.

        Raises:
            OptionError: its options do not fit.
        """
        source: Source = self._open(table, {}, None)
        return source

    def sink(self, table: Table, options: Mapping[str, str], job: str) -> Sink:
        """Open the table for writing."""
        connector = self.registry.connector(table.options["connector"])
        assert connector.sink is not None
        return connector.sink(self.spec(table, options, job=job, for_sink=True))

    def sink_changelog(self, table: Table, options: Mapping[str, str]) -> Changelog:
        """What the table's connector takes.

        Raises:
            UnsupportedError: it takes nothing.
        """
        connector = self.registry.connector(table.options["connector"])
        if connector.sink is None:
            raise UnsupportedError(f"connector '{connector.name}' of {table.name} can be read only")
        if connector.sink_changelog is None:
            return Changelog.APPEND
        return connector.sink_changelog(self.spec(table, options, for_sink=True))

    def _needed(self, table: Table, columns: frozenset[str]) -> frozenset[str]:
        """Stored columns, and fields of them, that the read ones stand on."""
        texts = [c.expression for c in table.columns if c.expression is not None and c.name in columns]
        if table.watermark is not None:
            texts += [table.watermark[1]]
            texts += [c.expression for c in table.columns if c.name == table.watermark[0] and c.expression is not None]
        mentioned = {
            i.name for t in texts if t is not None for c in parse_expression(t).find_all(exp.Column) for i in c.parts
        }
        stored = table.stored().names
        whole = {n for n in stored if n in columns or n in mentioned}
        fields = {
            c for c in columns - set(stored) for root in [c.partition(".")[0]] if root in stored and root not in whole
        }
        return frozenset(whole | fields)

    def _computed(self, table: Table, stored: pa.Schema, columns: frozenset[str]) -> tuple[Output, ...]:
        wanted = [c for c in table.columns if c.expression is not None and c.name in columns]
        if not wanted:
            return ()
        texts = self.expressions([c.expression or "" for c in wanted], stored)
        return tuple(Output(pa.field(c.name, c.type.arrow), sql=t) for c, t in zip(wanted, texts))

    def _watermark(self, table: Table, bounded: bool) -> WatermarkSpec | None:
        if table.watermark is None:
            return None
        name, text = table.watermark
        computed = {c.name: c.expression for c in table.columns if c.expression is not None}
        expression = parse_expression(text)
        for column in list(expression.find_all(exp.Column)):
            if computed.get(column.name):
                column.replace(parse_expression(computed[column.name] or ""))
        stored = table.stored()
        field = pa.field("watermark", table.column(name).type.arrow)
        if isinstance(expression, exp.Column) and expression.name in stored.names:
            output = Output(field, column=stored.get_field_index(expression.name))
        else:
            output = Output(field, sql=self.expressions([expression.sql(dialect=Flink)], stored)[0])
        program = Program(session_context(), stored, [output])
        idle = self.options.micros("table.exec.source.idle-timeout")
        return WatermarkSpec(
            lambda rows: program(rows).column(0),
            None if bounded else self.options.micros("watermark.max-future"),
            idle or None,
            *alignment(table),
        )


def _wanted(columns: frozenset[str] | None, seam: Seam | None) -> tuple[str, ...] | None:
    """The columns to read; the seam's is always among them."""
    return None if columns is None else tuple(sorted(columns | ({seam.column} if seam is not None else set())))


def _identity(table: Table, options: Mapping[str, str]) -> str:
    """What makes two scans of a table the same: its definition, but for how its state is kept."""
    read = replace(table, options={k: v for k, v in table.options.items() if not k.startswith(STATE)})
    return hashlib.sha256(f"{read.ddl(mask=False)} {sorted(options.items())}".encode()).hexdigest()[:24]
