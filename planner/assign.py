"""Assigning a query's columns to a table's: which types fit without being asked for, and the casts that make them equal.

Strict as Flink is: a number never becomes shorter and text never becomes a number unless the query says CAST. DataFusion
would accept both.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from forebay.engine.errors import SqlError, nearest
from forebay.engine.types import from_arrow
from forebay.planner.build import project
from forebay.planner.expr import Call, Case, Cast, Column, Expr, Literal, Unary
from forebay.planner.messages import find_token
from forebay.planner.nodes import Node, Values

_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
_FLOATS = (pa.float32(), pa.float64())


def fits(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether a value of the source type may be stored under the target type without a CAST in the query."""
    t = pa.types
    if source.equals(target) or t.is_null(source):
        return True
    if t.is_integer(target):
        return source in _INTEGERS and _INTEGERS.index(source) <= _INTEGERS.index(target)
    if t.is_decimal(target):
        return source in _INTEGERS or source in _FLOATS or t.is_decimal(source)
    if target == pa.float64():
        return source in _INTEGERS or source in _FLOATS or t.is_decimal(source)
    if target == pa.float32():
        return source in _INTEGERS or t.is_decimal(source)
    if t.is_timestamp(target):
        return bool(t.is_timestamp(source) or t.is_date(source))
    if t.is_date(target):
        return bool(t.is_timestamp(source))
    if t.is_string(target):
        return bool(t.is_large_string(source))
    return _nested_fits(source, target)


def _nested_fits(source: pa.DataType, target: pa.DataType) -> bool:
    t = pa.types
    if t.is_map(source) and t.is_map(target):
        return fits(source.key_type, target.key_type) and fits(source.item_type, target.item_type)
    if t.is_list(source) and t.is_list(target):
        return fits(source.value_type, target.value_type)
    if t.is_struct(source) and t.is_struct(target):
        return source.num_fields == target.num_fields and all(fits(s.type, g.type) for s, g in zip(source, target))
    return bool(t.is_time(source) and t.is_time(target))


def target_columns(table: str, target: pa.Schema, named: Sequence[str] | None, sql: str | None) -> list[int]:
    """Positions in the table of the columns that an INSERT writes, in the query's order.

    Raises:
        SqlError: a name is unknown or given twice.
    """
    if named is None:
        return list(range(len(target)))
    positions: list[int] = []
    for name in named:
        index = target.get_field_index(name)
        if index < 0:
            close = nearest(name, target.names)
            hint = f"did you mean {close}?" if close else "its columns are " + ", ".join(target.names)
            raise _at(name, sql, SqlError(f"table {table} has no writable column {name}", hint=hint))
        if index in positions:
            raise _at(name, sql, SqlError(f"column {name} is given twice"))
        positions.append(index)
    return positions


def assigned(query: Node, table: str, target: pa.Schema, named: Sequence[str] | None, sql: str | None) -> Node:
    """The query's rows as rows of the table: cast, in the table's column order, NULL where the INSERT names no value.

    Raises:
        SqlError: too many or too few columns, a type that does not fit, no value for a NOT NULL column.
    """
    positions = target_columns(table, target, named, sql)
    if len(positions) != len(query.schema):
        raise SqlError(
            f"table {table} takes {len(positions)} columns, the query gives {len(query.schema)}",
            sql=sql,
            detail=f"table: {', '.join(target.field(p).name for p in positions)}; query: {', '.join(query.schema.names)}",
        )
    exprs: list[Expr] = []
    for position, field in enumerate(target):
        if position not in positions:
            if not field.nullable:
                raise SqlError(f"column {field.name} of {table} is NOT NULL and gets no value", sql=sql)
            exprs.append(Literal(None, field.type))
            continue
        exprs.append(_cast(query, positions.index(position), field, table, sql))
    fields = [f if f.nullable else f.with_nullable(_may_be_null(e, query)) for e, f in zip(exprs, target)]
    return project(query, tuple(exprs), pa.schema(fields))


def _may_be_null(expr: Expr, query: Node) -> bool:
    while isinstance(expr, Cast):
        expr = expr.arg
    return query.schema.field(expr.index).nullable if isinstance(expr, Column) else True


def _cast(query: Node, column: int, field: pa.Field, table: str, sql: str | None) -> Expr:
    source = query.schema.field(column)
    if source.type.equals(field.type):
        return Column(column)
    if not fits(source.type, field.type) and not _constants_fit(query, column, field.type):
        have, want = from_arrow(source.type), from_arrow(field.type)
        error = SqlError(
            f"column {field.name} of {table} is {want}, the query's column {source.name} is {have}",
            hint=f"write CAST({source.name} AS {want}), or TRY_CAST to get NULL for what does not convert",
        )
        raise _at(source.name, sql, error)
    return _converted(Column(column), source.type, field.type)


def _converted(value: Expr, source: pa.DataType, target: pa.DataType) -> Expr:
    """The value under the target type. Fields of rows correspond by position, whatever their names."""
    if not (pa.types.is_struct(source) and pa.types.is_struct(target)):
        return Cast(value, target)
    parts: list[Expr] = []
    for have, want in zip(source, target):
        field = Call("get_field", (value, Literal(have.name, pa.string())))
        parts += [Literal(want.name, pa.string()), _converted(field, have.type, want.type)]
    return Case(None, ((Unary("IS NOT NULL", value), Call("named_struct", tuple(parts))),), None)


def _at(name: str, sql: str | None, error: SqlError) -> SqlError:
    """The error with the place of a name in the statement."""
    error.sql = sql
    error.line, error.column = find_token(sql, name) if sql is not None else (None, None)
    return error


def _constants_fit(query: Node, column: int, target: pa.DataType) -> bool:
    """Whether the column holds integer constants only, all within the target's range."""
    if not isinstance(query, Values) or target not in _INTEGERS:
        return False
    half = 1 << (target.bit_width - 1)
    items = [row[column] for row in query.rows]
    return all(isinstance(e, Literal) and isinstance(e.value, int) and -half <= e.value < half for e in items)
