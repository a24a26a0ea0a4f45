"""Expressions and plans as SQL text for DataFusion, every planned type kept.

Types are written with `arrow_cast`, which takes any Arrow type; constants carry theirs, so planning the text again gives
the same types. `to_sql` serves the expression evaluator; `plan_to_sql` rebuilds a whole query from a logical plan and is
the batch oracle of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from forebay.engine.errors import InternalError
from forebay.planner.expr import Binary, Call, Case, Cast, Column, Expr, InList, Like, Literal, Unary

_TYPES = {
    pa.null(): "Null", pa.bool_(): "Boolean", pa.int8(): "Int8", pa.int16(): "Int16", pa.int32(): "Int32",
    pa.int64(): "Int64", pa.uint8(): "UInt8", pa.uint16(): "UInt16", pa.uint32(): "UInt32", pa.uint64(): "UInt64",
    pa.float16(): "Float16", pa.float32(): "Float32", pa.float64(): "Float64", pa.string(): "Utf8",
    pa.large_string(): "LargeUtf8", pa.string_view(): "Utf8View", pa.binary(): "Binary", pa.large_binary(): "LargeBinary",
    pa.date32(): "Date32", pa.date64(): "Date64", pa.month_day_nano_interval(): "Interval(MonthDayNano)",
}  # fmt: skip


def identifier(name: str) -> str:
    """A name in double quotes, as DataFusion takes any name."""
    return '"' + name.replace('"', '""') + '"'


def string(value: str) -> str:
    """A string constant."""
    return "'" + value.replace("'", "''") + "'"


def type_name(arrow: pa.DataType) -> str:
    """An Arrow type in the words that `arrow_cast` takes.

    Raises:
        InternalError: the type has no such word.
    """
    if arrow in _TYPES:
        return _TYPES[arrow]
    if pa.types.is_decimal(arrow):
        return f"Decimal{arrow.bit_width}({arrow.precision}, {arrow.scale})"
    if pa.types.is_timestamp(arrow):
        return f'Timestamp({arrow.unit}, "{arrow.tz}")' if arrow.tz else f"Timestamp({arrow.unit})"
    if pa.types.is_time(arrow):
        return f"Time{arrow.bit_width}({arrow.unit})"
    if pa.types.is_duration(arrow):
        return f"Duration({arrow.unit})"
    if pa.types.is_map(arrow):
        key, item = type_name(arrow.key_type), _field_type(arrow.item_field)
        return f'Map("entries": non-null Struct("key": non-null {key}, "value": {item}), unsorted)'
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        return f"{'Large' if pa.types.is_large_list(arrow) else ''}List({_field_type(arrow.value_field)})"
    if pa.types.is_struct(arrow):
        return "Struct(" + ", ".join(f"{identifier(f.name)}: {_field_type(f)}" for f in arrow) + ")"
    if pa.types.is_fixed_size_binary(arrow):
        return f"FixedSizeBinary({arrow.byte_width})"
    raise InternalError(f"Arrow type {arrow} cannot be written as text")


def _field_type(field: pa.Field) -> str:
    return type_name(field.type) if field.nullable else "non-null " + type_name(field.type)


def constant(value: Any, arrow: pa.DataType) -> str:
    """A typed constant. Times are integers in the type's unit, as in `Literal`; None is a typed NULL."""
    if value is None:
        return "NULL" if pa.types.is_null(arrow) else f"arrow_cast(NULL, {string(type_name(arrow))})"
    if pa.types.is_boolean(arrow):
        return "TRUE" if value else "FALSE"
    if pa.types.is_string(arrow):
        return string(value)
    if pa.types.is_binary(arrow):
        return f"X'{value.hex()}'"
    if pa.types.is_interval(arrow):
        sign, nanos = ("-" if value.nanoseconds < 0 else ""), abs(value.nanoseconds)
        seconds = f"{sign}{nanos // 10**9}.{nanos % 10**9:09}"
        return f"INTERVAL '{value.months} months {value.days} days {seconds} seconds'"
    return f"arrow_cast({_untyped(value, arrow)}, {string(type_name(arrow))})"


def _untyped(value: Any, arrow: pa.DataType) -> str:
    """Text that `arrow_cast` turns into exactly this value."""
    if pa.types.is_map(arrow):
        keys = ", ".join(constant(k, arrow.key_type) for k, _ in value)
        items = ", ".join(constant(v, arrow.item_type) for _, v in value)
        return f"map([{keys}], [{items}])"
    if pa.types.is_struct(arrow):
        return "named_struct(" + ", ".join(f"{string(f.name)}, {constant(value[f.name], f.type)}" for f in arrow) + ")"
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        return "make_array(" + ", ".join(constant(v, arrow.value_type) for v in value) + ")"
    if isinstance(value, float):
        return string("NaN" if math.isnan(value) else repr(value))
    if isinstance(value, Decimal):
        return string(format(value, "f"))
    if pa.types.is_time32(arrow):
        return f"arrow_cast({value}, 'Int32')"
    if isinstance(value, int):
        return str(value)
    return string(str(value))


def chain(expr: Expr, op: str) -> list[Expr]:
    """The operands of a chain of ANDs or ORs, in order: written flat, a long one does not nest too deep to be parsed."""
    operands: list[Expr] = []
    while isinstance(expr, Binary) and expr.op == op:
        operands.append(expr.right)
        expr = expr.left
    return [expr, *reversed(operands)]


def to_sql(expr: Expr, names: Sequence[str]) -> str:
    """The expression as SQL over columns whose texts are `names`, by position (write them quoted where needed)."""
    match expr:
        case Column(index):
            return names[index]
        case Literal(value, arrow):
            return constant(value, arrow)
        case Binary("AND" | "OR" as op, _, _):
            return f"({f' {op} '.join(to_sql(e, names) for e in chain(expr, op))})"
        case Binary(op, left, right):
            return f"({to_sql(left, names)} {op} {to_sql(right, names)})"
        case Unary(op, arg):
            text = to_sql(arg, names)
            return f"({op} {text})" if op in ("NOT", "-") else f"({text} {op})"
        case Cast(arg, arrow, safe):
            function = "arrow_try_cast" if safe else "arrow_cast"
            return f"{function}({to_sql(arg, names)}, {string(type_name(arrow))})"
        case Case(operand, branches, otherwise):
            head = f" {to_sql(operand, names)}" if operand is not None else ""
            body = "".join(f" WHEN {to_sql(w, names)} THEN {to_sql(t, names)}" for w, t in branches)
            tail = f" ELSE {to_sql(otherwise, names)}" if otherwise is not None else ""
            return f"(CASE{head}{body}{tail} END)"
        case InList(arg, items, negated):
            op = "NOT IN" if negated else "IN"
            return f"({to_sql(arg, names)} {op} ({', '.join(to_sql(i, names) for i in items)}))"
        case Like(op, arg, pattern, escape, negated):
            escaped = f" ESCAPE {string(escape)}" if escape else ""
            word = f"NOT {op}" if negated else op
            return f"({to_sql(arg, names)} {word} {to_sql(pattern, names)}{escaped})"
        case Call(name, args):
            return f"{identifier(name)}({', '.join(to_sql(a, names) for a in args)})"
    raise InternalError(f"{type(expr).__name__} cannot be written as SQL")
