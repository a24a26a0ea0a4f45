"""The catalog: tables, views, materialized views and jobs by name, in the order they were made.

Definitions are immutable; ALTER makes a new one, so a running job keeps what it was bound to. The catalog is saved as the DDL
that makes it again: the file is readable, and one parser serves both.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import pyarrow as pa
from sqlglot import exp

from forebay.engine.connector import (
    ColumnSpec,
    Option,
    Registry,
    TableSpec,
    check_options,
)
from forebay.engine.errors import CatalogError, OptionError, SqlError, nearest
from forebay.engine.runtime import deadletters
from forebay.engine.secrets import masked
from forebay.engine.types import SqlType
from forebay.planner import statements as st
from forebay.planner.dialect.script import parse
from forebay.planner.options import duration

FORMAT = 1
STATE = "state."
"""What the names of options begin with that say how a table's state is kept, and not how the table is read."""
STATE_TTL = Option(f"{STATE}ttl", "how long joins and groupings keep the table's rows, such as '35 d'; '0' for ever")
STATE_COLUMNS = Option(
    "state.columns", "what joins of the table store: 'all' columns, some ('a;b'), or 'used', which no jobs share", "all"
)
STATE_KEEP = Option(
    f"{STATE}keep",
    "whether what joins stored of the table stays when the last job leaves",
    "false",
    choices=("true", "false"),
)
ALIGNMENT_GROUP = Option(
    "scan.watermark.alignment.group", "a name: tables with the same one are read at one pace, by their watermarks"
)
ALIGNMENT_DRIFT = Option(
    "scan.watermark.alignment.max-drift", "how far the table may be ahead of the slowest of its group", "1 min"
)
Typer = Callable[[Sequence[str], pa.Schema], list[SqlType]]
"""Types of expression texts over a schema."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; physical unless it has an `expression` or a `metadata` key."""

    name: str
    type: SqlType
    expression: str | None = None
    metadata: str | None = None
    virtual: bool = False
    comment: str | None = None

    @property
    def writable(self) -> bool:
        return self.expression is None and not self.virtual


@dataclass(frozen=True, slots=True)
class Table:
    """A connector's table, or an embedded one (no 'connector' option)."""

    name: str
    columns: tuple[Column, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    primary_key: tuple[str, ...] = ()
    watermark: tuple[str, str] | None = None
    partitioned_by: tuple[str, ...] = ()
    comment: str | None = None

    @property
    def embedded(self) -> bool:
        return "connector" not in self.options

    def schema(self) -> pa.Schema:
        """Every readable column."""
        return pa.schema([pa.field(c.name, c.type.arrow, c.type.nullable) for c in self.columns])

    def stored(self) -> pa.Schema:
        """The columns that come from outside: physical and metadata."""
        given = [c for c in self.columns if c.expression is None]
        return pa.schema([pa.field(c.name, c.type.arrow, c.type.nullable) for c in given])

    def writable(self) -> pa.Schema:
        """The columns that INSERT fills."""
        return pa.schema([pa.field(c.name, c.type.arrow, c.type.nullable) for c in self.columns if c.writable])

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            CatalogError: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        close = nearest(name, [c.name for c in self.columns])
        hint = f"did you mean {close}?" if close else f"columns: {', '.join(c.name for c in self.columns)}"
        raise CatalogError(f"table {self.name} has no column '{name}'", hint=hint)

    def spec(self, *, options: Mapping[str, str] = {}, for_sink: bool = False, **more: object) -> TableSpec:
        """The table as a connector sees it; `options` of a hint win."""
        columns = [c for c in self.columns if c.expression is None and not (for_sink and c.virtual)]
        return TableSpec(
            name=self.name,
            columns=tuple(ColumnSpec(c.name, c.type.arrow, c.type.nullable, c.metadata, c.virtual) for c in columns),
            options={**self.options, **options},
            primary_key=self.primary_key,
            partitioned_by=self.partitioned_by,
            **more,  # type: ignore[arg-type]
        )

    def ddl(self, *, mask: bool = True) -> str:
        """CREATE TABLE that makes it again; secrets as stars if `mask`."""
        lines = [_column_ddl(c) for c in self.columns]
        if self.watermark is not None:
            lines.append(f"WATERMARK FOR {quoted(self.watermark[0])} AS {self.watermark[1]}")
        if self.primary_key:
            lines.append(f"PRIMARY KEY ({', '.join(map(quoted, self.primary_key))}) NOT ENFORCED")
        text = f"CREATE TABLE {quoted(self.name)} (\n  " + ",\n  ".join(lines) + "\n)"
        if self.comment is not None:
            text += f"\nCOMMENT {literal(self.comment)}"
        if self.partitioned_by:
            text += f"\nPARTITIONED BY ({', '.join(map(quoted, self.partitioned_by))})"
        if self.options:
            shown = masked(self.options) if mask else self.options
            pairs = ",\n  ".join(f"{literal(k)} = {literal(v)}" for k, v in sorted(shown.items()))
            text += f"\nWITH (\n  {pairs}\n)"
        return text


@dataclass(frozen=True, slots=True)
class View:
    """A named query, expanded where it is used."""

    name: str
    sql: str
    columns: tuple[str, ...] = ()
    temporary: bool = False
    comment: str | None = None

    @classmethod
    def of(cls, statement: st.CreateView) -> View:
        """The view that a statement makes."""
        return cls(statement.name, statement.query_sql, statement.columns, statement.temporary, statement.comment)

    def ddl(self) -> str:
        listed = f" ({', '.join(map(quoted, self.columns))})" if self.columns else ""
        word = "TEMPORARY VIEW" if self.temporary else "VIEW"
        return f"CREATE {word} {quoted(self.name)}{listed} AS {self.sql}"


@dataclass(frozen=True, slots=True)
class MaterializedView:
    """A query whose result is kept: continuously, or refreshed on a schedule ('refresh.interval')."""

    name: str
    sql: str
    schema: pa.Schema
    primary_key: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    comment: str | None = None
    reads: tuple[str, ...] = ()
    """Relations that a scheduled view's query reads; a continuous one's are its job's."""

    @property
    def scheduled(self) -> bool:
        """It has no job: its query is answered anew at intervals."""
        return bool(self.options)

    def ddl(self) -> str:
        listed = f" ({', '.join(map(quoted, self.columns))})" if self.columns else ""
        pairs = ", ".join(f"{literal(k)} = {literal(v)}" for k, v in sorted(self.options.items()))
        options = f" WITH ({pairs})" if pairs else ""
        return f"CREATE MATERIALIZED VIEW {quoted(self.name)}{listed}{options} AS {self.sql}"


@dataclass(frozen=True, slots=True)
class JobDefinition:
    """A job that runs until it is stopped: its statement and the session options that it was made under."""

    name: str
    sql: str
    options: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    bound: Mapping[str, str] = field(default_factory=dict)
    """DDL of tables and views that could change while it runs, as they were when it was made."""
    id: str = field(default_factory=lambda: uuid4().hex)
    """Tells it from another job of its name; ALTER JOB keeps it."""

    def to_json(self) -> dict[str, Any]:
        """What a catalog and a checkpoint keep of it."""
        return {
            "name": self.name, "sql": self.sql, "options": dict(self.options), "bound": dict(self.bound), "id": self.id,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class SystemStream:
    """What the warehouse itself tells as it comes: jobs read it from their start on; nobody writes or drops it."""

    name: str
    schema: pa.Schema
    primary_key: tuple[str, ...] = ()

    def ddl(self) -> str:
        return f"-- {quoted(self.name)} is the warehouse's own"


@dataclass(frozen=True, slots=True)
class KeptState:
    """Rows of a table by a key that are held although no job needs them."""

    table: str
    key: tuple[str, ...]
    stamped: bool
    bound: Mapping[str, str]
    """As of a job."""

    @property
    def name(self) -> str:
        """Of the job that holds them."""
        return f"state.keep {self.table} by ({', '.join(self.key)})"

    def to_json(self) -> dict[str, Any]:
        return {"table": self.table, "key": list(self.key), "stamped": self.stamped, "bound": dict(self.bound)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> KeptState:
        return KeptState(value["table"], tuple(value["key"]), value["stamped"], value["bound"])


@dataclass(frozen=True, slots=True)
class Loading:
    """A history on its way into the state of a table whose jobs run."""

    table: str
    options: Mapping[str, str]
    """What the table's options become."""
    replay: bool
    """Sinks get what the history adds to their results."""

    @property
    def job(self) -> str:
        """Name of the job that brings the state up."""
        return f"bootstrap {self.table}"

    def to_json(self) -> dict[str, Any]:
        return {"table": self.table, "options": dict(self.options), "replay": self.replay}


Relation = Table | View | MaterializedView | SystemStream


class Catalog:
    """Everything that has a name."""

    def __init__(self) -> None:
        self.relations: dict[str, Relation] = {deadletters.NAME: SystemStream(deadletters.NAME, deadletters.SCHEMA)}
        self.jobs: dict[str, JobDefinition] = {}
        self.kept: dict[str, KeptState] = {}
        self.loading: dict[str, Loading] = {}
        """By name of the job."""

    # -- look-up ------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Relation:
        """The relation of that name.

        Raises:
            CatalogError: there is none.
        """
        found = self.relations.get(name)
        if found is None:
            close = nearest(name, self.relations)
            hint = f"did you mean {close}?" if close else "SHOW TABLES lists what exists"
            raise CatalogError(f"table {name} does not exist", hint=hint)
        return found

    def table(self, name: str) -> Table:
        """The table of that name.

        Raises:
            CatalogError: there is none, or it is a view.
        """
        found = self.find(name)
        if not isinstance(found, Table):
            what = "the warehouse's own" if isinstance(found, SystemStream) else "a view, not a table"
            raise CatalogError(f"{name} is {what}", hint="only tables can be written and altered")
        return found

    def job(self, name: str) -> JobDefinition:
        """The job of that name.

        Raises:
            CatalogError: there is none, or it loads a history.
        """
        if name in self.loading:
            raise CatalogError(
                f"'{name}' loads a history, it can only be called off",
                hint=f"DROP JOB `{name}` does that; or wait for it",
            )
        if name not in self.jobs:
            raise CatalogError(f"there is no job '{name}'", hint="SHOW JOBS lists them")
        return self.jobs[name]

    def names(self, kind: type[Relation]) -> list[str]:
        """Names of one kind, sorted."""
        return sorted(n for n, r in self.relations.items() if isinstance(r, kind))

    def users(self, name: str) -> list[str]:
        """Jobs and scheduled views that read or write the relation, through plain views too."""
        views = [r.name for r in self.relations.values() if isinstance(r, MaterializedView) and name in r.reads]
        return [j.name for j in self.jobs.values() if name in j.reads or name in j.writes] + views

    def dependents(self, name: str) -> list[str]:
        """All that cannot be without the relation: its users, and whatever names it in its text."""
        views = [r for r in self.relations.values() if isinstance(r, View | MaterializedView)]
        named = [d.name for d in (*views, *self.jobs.values()) if name in tables_named(d.sql)]
        return list(dict.fromkeys([*self.users(name), *named]))

    def readers(self, name: str) -> set[str]:
        """All relations that stand on this one, through others too."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            new = [d for d in self.dependents(waiting.pop()) if d in self.relations and d not in found]
            found |= set(new)
            waiting += new
        return found - {name}

    # -- change -------------------------------------------------------------------------------------------------

    def add(self, relation: Relation, *, replace_: bool = False) -> None:
        """Enter a new relation.

        Raises:
            CatalogError: the name is taken.
        """
        if relation.name in self.relations and not replace_:
            raise CatalogError(f"{relation.name} already exists", hint="CREATE ... IF NOT EXISTS, or DROP it first")
        self.relations[relation.name] = relation

    def put_last(self, view: MaterializedView) -> None:
        """Enter a view that has another query: after all that it may read now, and before its readers."""
        readers = self.readers(view.name)
        moved = {n: r for n, r in self.relations.items() if n in readers}
        for name in (view.name, *moved):
            del self.relations[name]
        self.relations |= {view.name: view, **moved}

    def drop(self, kind: str, name: str) -> Relation:
        """Remove a relation of the kind that DROP names.

        Raises:
            CatalogError: it is missing, of another kind, or jobs use it.
        """
        found = self.find(name)
        if isinstance(found, SystemStream):
            raise CatalogError(f"{name} is the warehouse's own", hint="it can be read only")
        wanted = {"TABLE": Table, "VIEW": View, "MATERIALIZED VIEW": MaterializedView}[kind]
        if not isinstance(found, wanted):
            word = {Table: "TABLE", View: "VIEW", MaterializedView: "MATERIALIZED VIEW"}[type(found)]
            raise CatalogError(f"{name} is not a {kind.lower()}", hint=f"DROP {word} {name}")
        users = [j for j in self.dependents(name) if j != name]
        if users:
            raise CatalogError(
                f"{name} is used by {', '.join(users)}",
                hint="; ".join(f"DROP {self._kind(j)} {quoted(j)}" for j in users),
            )
        return self.relations.pop(name)

    def _kind(self, user: str) -> str:
        found = self.relations.get(user)
        return "JOB" if found is None else "VIEW" if isinstance(found, View) else "MATERIALIZED VIEW"

    # -- saving -------------------------------------------------------------------------------------------------

    def to_json(self, options: Mapping[str, str]) -> bytes:
        """The catalog and the session's saved options."""
        passing = {n for n, r in self.relations.items() if isinstance(r, View) and r.temporary}
        own = {n for n, r in self.relations.items() if isinstance(r, SystemStream)}
        kept = [r for n, r in self.relations.items() if n not in own and (n not in passing or self.dependents(n))]
        value = {
            "format": FORMAT,
            "options": dict(options),
            "relations": [r.ddl(mask=False) if isinstance(r, Table) else r.ddl() for r in kept],
            "jobs": [j.to_json() for j in self.jobs.values()],
            "kept": [k.to_json() for k in self.kept.values()],
            "loading": [h.to_json() for h in self.loading.values()],
        }
        return json.dumps(value, indent=1).encode()


def define(statement: st.CreateTable, catalog: Catalog, registry: Registry, typer: Typer) -> Table:
    """The table that a statement defines, checked.

    Raises:
        SqlError: a column, key, watermark or option is wrong.
    """
    try:
        return _define(statement, catalog, registry, typer)
    except SqlError as error:
        if error.sql is None:
            error.sql, error.line, error.column = statement.sql, *place_in(statement.sql, error.message)
        raise


def _define(statement: st.CreateTable, catalog: Catalog, registry: Registry, typer: Typer) -> Table:
    definitions = list(statement.columns)
    options, watermark, key = dict(statement.options), statement.watermark, statement.primary_key
    partitioned = statement.partitioned_by
    if statement.like is not None:
        source = catalog.table(statement.like)
        keep = _like(statement.like_options)
        inherited = [_definition(c) for c in source.columns if _kept(c, keep)]
        names = {c.name for c in definitions}
        definitions = [c for c in inherited if c.name not in names] + definitions
        options = {**(source.options if keep["OPTIONS"] else {}), **options}
        watermark = watermark or (source.watermark if keep["WATERMARKS"] else None)
        key = key or (source.primary_key if keep["CONSTRAINTS"] else ())
        partitioned = partitioned or (source.partitioned_by if keep["PARTITIONS"] else ())
    table = Table(
        statement.name, build_columns(definitions, typer), options, key, watermark, partitioned, statement.comment
    )
    return checked(table, registry, typer)


def build_columns(definitions: Sequence[st.ColumnDefinition], typer: Typer) -> tuple[Column, ...]:
    """Columns with their types; computed ones see the others.

    Raises:
        CatalogError: a name is there twice, or an expression does not bind.
    """
    seen: set[str] = set()
    for definition in definitions:
        if definition.name in seen:
            raise CatalogError(f"column '{definition.name}' is defined twice")
        seen.add(definition.name)
    given = [d for d in definitions if d.expression is None and d.type is not None]
    base = pa.schema([pa.field(d.name, d.type.arrow, d.type.nullable) for d in given if d.type is not None])
    computed = [d for d in definitions if d.expression is not None]
    types = (
        dict(zip((d.name for d in computed), typer([d.expression or "" for d in computed], base))) if computed else {}
    )
    return tuple(
        Column(d.name, d.type if d.type is not None else types[d.name], d.expression, d.metadata, d.virtual, d.comment)
        for d in definitions
    )


def checked(table: Table, registry: Registry, typer: Typer) -> Table:
    """The table with its key columns NOT NULL, after every check that needs no outside system.

    Raises:
        SqlError: naming what is wrong.
    """
    if not table.columns:
        raise CatalogError(f"table {table.name} has no columns")
    for name in (*table.primary_key, *table.partitioned_by):
        table.column(name)
    columns = tuple(replace(c, type=c.type.not_null()) if c.name in table.primary_key else c for c in table.columns)
    table = replace(table, columns=columns)
    if table.watermark is not None:
        name, text = table.watermark
        kind = table.column(name).type
        if kind.name not in ("TIMESTAMP", "TIMESTAMP_LTZ"):
            raise CatalogError(
                f"watermark column '{name}' must be TIMESTAMP or TIMESTAMP_LTZ, is {kind}",
                hint="add a computed column, for example: ts AS TO_TIMESTAMP_LTZ(millis, 3)",
            )
        typer([text], table.schema())
    state_ttl(table.options)
    if not table.embedded:
        check_connector(table, registry)
    return table


def check_connector(table: Table, registry: Registry) -> None:
    """Check a table's options against its connector and formats.

    Raises:
        OptionError: naming the option, and the nearest known one.
    """
    connector = registry.connector(table.options["connector"])
    known: list[Option] = [
        Option("connector", "the connector"),
        STATE_COLUMNS,
        STATE_TTL,
        STATE_KEEP,
        ALIGNMENT_GROUP,
        ALIGNMENT_DRIFT,
        *connector.options,
    ]
    if connector.uses_format:
        for prefix, name in formats_of(table.options):
            found = registry.format(name)
            known += [replace(o, name=f"{prefix}{name}.{o.name}", required=False) for o in found.options]
        names = {o.name for o in known}
        known += [Option(n, n) for n in ("format", "key.format", "value.format") if n not in names]
    check_options(table.options, known, connector.option_prefixes, f"connector '{connector.name}'")
    state_columns(table.options, table)
    alignment(table)
    if connector.source is None and connector.sink is None:
        raise OptionError(f"connector '{connector.name}' can be neither read nor written")


def state_ttl(options: Mapping[str, str]) -> int | None:
    """How long joins and groupings keep a table's rows, in ms; 0: for ever; None: the table does not say.

    Raises:
        OptionError: it is no duration.
    """
    text = options.get(STATE_TTL.name)
    if text is None:
        return None
    try:
        return duration(text) // 1000
    except OptionError as error:
        raise OptionError(f"option '{STATE_TTL.name}': {error.message}") from error


def alignment(table: Table) -> tuple[str | None, int]:
    """A table's alignment group, if it has one, and the most drift in µs.

    Raises:
        OptionError: the table has no watermark, or the drift is no duration.
    """
    group = table.options.get(ALIGNMENT_GROUP.name)
    if group is not None and table.watermark is None:
        raise OptionError(f"option '{ALIGNMENT_GROUP.name}': {table.name} has no WATERMARK", hint="declare one")
    try:
        return group, duration(table.options.get(ALIGNMENT_DRIFT.name, ALIGNMENT_DRIFT.default or ""))
    except OptionError as error:
        raise OptionError(f"option '{ALIGNMENT_DRIFT.name}': {error.message}") from error


def state_columns(options: Mapping[str, str], table: Table) -> list[str] | None:
    """The columns that joins of a table store, in its order; None for 'used'. Computed ones are not among them.

    Raises:
        OptionError: a column that the table does not have.
    """
    wanted = options.get(STATE_COLUMNS.name, "all").strip()
    if wanted == "used":
        return None
    names: list[str] = table.stored().names
    if wanted == "all":
        return names
    listed = [part.strip() for part in wanted.split(";")]
    for name in listed:
        if name not in names:
            close = nearest(name, names)
            hint = f"did you mean '{close}'?" if close else "'all', 'used', or columns with ';' between"
            raise OptionError(f"option '{STATE_COLUMNS.name}': {table.name} has no column '{name}'", hint=hint)
    return [n for n in names if n in listed]


def formats_of(options: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """(prefix of its options, name) of each format that a table uses."""
    if "format" in options:
        yield "", options["format"]
    for side in ("key", "value"):
        if f"{side}.format" in options:
            yield f"{side}.", options[f"{side}.format"]
            if side == "value":
                yield "", options["value.format"]


_WITH_QUERY = (st.Query, st.Insert, st.CreateView, st.CreateMaterializedView)


@functools.lru_cache(1024)
def tables_named(sql: str) -> frozenset[str]:
    """The relations that a query or job names."""
    found: set[str] = set()
    for statement in parse(sql):
        inserts = statement.inserts if isinstance(statement, st.StatementSet) else (statement,)
        queries = [s.query for s in inserts if isinstance(s, _WITH_QUERY)]
        found |= {s.target for s in inserts if isinstance(s, st.Insert)}
        found |= {".".join(p.name for p in t.parts) for query in queries for t in query.find_all(exp.Table)}
    return frozenset(found)


_LIKE_PARTS = ("OPTIONS", "WATERMARKS", "CONSTRAINTS", "PARTITIONS", "GENERATED", "METADATA")


def _like(words: Sequence[str]) -> dict[str, bool]:
    keep = dict.fromkeys(_LIKE_PARTS, True)
    for mode, part in zip(words[::2], words[1::2]):
        parts = _LIKE_PARTS if part == "ALL" else (part,)
        for name in parts:
            if name not in keep or mode not in ("INCLUDING", "EXCLUDING", "OVERWRITING"):
                raise SqlError(
                    f"unknown LIKE option {mode} {part}", hint=f"INCLUDING or EXCLUDING {', '.join(_LIKE_PARTS)}"
                )
            keep[name] = mode != "EXCLUDING"
    return keep


def _kept(column: Column, keep: Mapping[str, bool]) -> bool:
    if column.expression is not None:
        return keep["GENERATED"]
    return column.metadata is None or keep["METADATA"]


def _definition(column: Column) -> st.ColumnDefinition:
    return st.ColumnDefinition(
        column.name, column.type, column.expression, column.metadata, column.virtual, column.comment
    )


def altered(table: Table, change: st.AlterTable, registry: Registry, typer: Typer) -> Table:
    """The table after ALTER TABLE.

    Raises:
        SqlError: the change does not fit.
    """
    definitions = [_definition(c) for c in table.columns]
    match change.action:
        case "RENAME TO":
            return replace(table, name=change.names[0])
        case "SET":
            return checked(replace(table, options={**table.options, **change.options}), registry, typer)
        case "RESET":
            for name in change.names:
                if name not in table.options and (close := nearest(name, table.options)) is not None:
                    raise CatalogError(f"table {table.name} has no option '{name}'", hint=f"did you mean '{close}'?")
            left = {k: v for k, v in table.options.items() if k not in change.names}
            return checked(replace(table, options=left), registry, typer)
        case "ADD":
            definitions += change.columns
        case "MODIFY":
            for column in change.columns:
                table.column(column.name)
            changed = {c.name: c for c in change.columns}
            definitions = [changed.get(d.name, d) for d in definitions]
        case "DROP":
            for name in change.names:
                table.column(name)
                if name in table.primary_key:
                    raise CatalogError(f"column '{name}' is in the primary key")
            definitions = [d for d in definitions if d.name not in change.names]
        case "RENAME COLUMN":
            old, new = change.names
            table.column(old)
            definitions = [replace(d, name=new) if d.name == old else d for d in definitions]
            key = tuple(new if k == old else k for k in table.primary_key)
            table = replace(table, primary_key=key)
    return checked(replace(table, columns=build_columns(definitions, typer)), registry, typer)


def _column_ddl(column: Column) -> str:
    if column.expression is not None:
        text = f"{quoted(column.name)} AS {column.expression}"
    else:
        text = f"{quoted(column.name)} {column.type}"
        if column.metadata is not None:
            text += f" METADATA FROM {literal(column.metadata)}" + (" VIRTUAL" if column.virtual else "")
    return text + (f" COMMENT {literal(column.comment)}" if column.comment is not None else "")


def quoted(name: str) -> str:
    """A name in backticks."""
    return "`" + name.replace("`", "``") + "`"


def literal(value: str) -> str:
    """A string in quotes."""
    return "'" + value.replace("'", "''") + "'"


def place_in(sql: str, message: str) -> tuple[int, int]:
    """Line and column in the text of the first name that the message quotes."""
    for name in message.split("'")[1::2]:
        found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sql)
        if name and found is not None:
            at = found.start()
            return sql.count("\n", 0, at) + 1, at - (sql.rfind("\n", 0, at) + 1) + 1
    return 1, 1
