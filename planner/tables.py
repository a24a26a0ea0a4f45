"""Relations by their definitions: tables, views, materialized views, and what the warehouse itself tells.

A definition is immutable: ALTER makes a new one, so a running job keeps what it was bound to. Each gives the DDL that makes
it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from forebay.engine.connector import ColumnSpec, TableSpec
from forebay.engine.errors import CatalogError, nearest
from forebay.engine.secrets import masked
from forebay.engine.types import SqlType
from forebay.planner import statements as st


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
class SystemStream:
    """What the warehouse itself tells as it comes: jobs read it from their start on; nobody writes or drops it."""

    name: str
    schema: pa.Schema
    primary_key: tuple[str, ...] = ()

    def ddl(self) -> str:
        return f"-- {quoted(self.name)} is the warehouse's own"


Relation = Table | View | MaterializedView | SystemStream


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
