"""CREATE TABLE and ALTER TABLE: from a statement to the table that it defines, after every check that needs no outside system."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from forebay.engine.connector import Registry
from forebay.engine.errors import CatalogError, SqlError, nearest
from forebay.engine.types import SqlType
from forebay.planner import statements as st
from forebay.planner.catalog import Catalog
from forebay.planner.messages import place_in
from forebay.planner.tableoptions import check_connector, state_ttl
from forebay.planner.tables import Column, Table

Typer = Callable[[Sequence[str], pa.Schema], list[SqlType]]
"""Types of expression texts over a schema."""


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
