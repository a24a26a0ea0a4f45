"""SQL text for DataFusion from a rewritten sqlglot tree: every name quoted, constants under Flink's types.

An integer constant is INT (DataFusion would make it BIGINT), `1e0` is DOUBLE, an interval is written in DataFusion's words
and CAST targets are Arrow types, so that nothing is left to another engine's defaults.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pyarrow as pa
from sqlglot import exp, generator, parser
from sqlglot.dialects.dialect import Dialect

from forebay.engine.errors import SqlError
from forebay.planner.render import string, type_name

_UNTYPED_PLACES = (
    exp.Limit,
    exp.Offset,
    exp.Fetch,
    exp.Ordered,
    exp.Group,
    exp.DataTypeParam,
    exp.Interval,
    exp.WindowSpec,
    exp.Bracket,
)
_SPAN = re.compile(r"^\s*([+-]?)\s*(?:(\d+)-(\d+)|(?:(\d+)(?:\s+|$))?(?:(\d+):(\d+)(?::(\d+(?:\.\d+)?))?)?)\s*$")


class DataFusion(Dialect):  # type: ignore[misc]
    """Writes what DataFusion 55 parses."""

    class Parser(parser.Parser):  # type: ignore[misc]
        FUNCTIONS: ClassVar[dict[str, Any]] = {}  # every function stays as it is written
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: parse for name, parse in parser.Parser.FUNCTION_PARSERS.items() if name in ("CAST", "TRY_CAST")
        }

    class Generator(generator.Generator):  # type: ignore[misc]
        IDENTIFY = True

        def literal_sql(self, expression: exp.Literal) -> str:
            text = str(super().literal_sql(expression))
            if expression.is_string or isinstance(expression.parent, _UNTYPED_PLACES):
                return text
            if "e" in text.lower():
                return f"arrow_cast({string(text)}, 'Float64')"
            if text.isdigit() and int(text) < 2**31:
                return f"arrow_cast({text}, 'Int32')"
            return text

        def interval_sql(self, expression: exp.Interval) -> str:
            return interval(expression)

        def cast_sql(self, expression: exp.Cast, safe_prefix: str | None = None) -> str:
            function = "arrow_try_cast" if isinstance(expression, exp.TryCast) else "arrow_cast"
            return f"{function}({self.sql(expression, 'this')}, {string(type_name(arrow_type(expression.to)))})"

        def trycast_sql(self, expression: exp.TryCast) -> str:
            return self.cast_sql(expression)

        def nullsafeeq_sql(self, expression: exp.NullSafeEQ) -> str:
            return f"({super().nullsafeeq_sql(expression)})"  # DataFusion's parser binds AND more tightly than this

        def nullsafeneq_sql(self, expression: exp.NullSafeNEQ) -> str:
            return f"({super().nullsafeneq_sql(expression)})"

        def array_sql(self, expression: exp.Array) -> str:
            return f"make_array({self.expressions(expression, flat=True)})"

        def hexstring_sql(self, expression: exp.HexString, binary_function_repr: str | None = None) -> str:
            return f"X'{expression.name}'"

        def anonymous_sql(self, expression: exp.Anonymous) -> str:
            name = expression.this if isinstance(expression.this, str) else expression.name
            return f'"{name.lower()}"({self.expressions(expression, flat=True)})'


def to_text(query: exp.Expression) -> str:
    """The tree as one SQL text."""
    text: str = query.sql(DataFusion, identify=True)
    return text


def custom_type(value: exp.Expression, arrow: pa.DataType) -> exp.Expression:
    """The value cast to any Arrow type."""
    return exp.Anonymous(this="arrow_cast", expressions=[value, exp.Literal.string(type_name(arrow))])


def interval(expression: exp.Interval) -> str:
    """An interval constant in DataFusion's words; a computed one is a product with a unit.

    Raises:
        SqlError: the text does not fit the unit.
    """
    value, unit = expression.this, expression.args.get("unit")
    words = unit.sql().upper() if unit is not None else "DAY"
    if not isinstance(value, exp.Literal):
        raise SqlError("an INTERVAL takes a constant in quotes", hint="write INTERVAL '5' MINUTE")
    if " TO " in words or not re.fullmatch(r"[+-]?\d+(\.\d+)?", value.name.strip()):
        return f"INTERVAL {string(_span(value.name, words))}"
    plain_unit = words.split("(")[0]
    return f"INTERVAL {string(f'{value.name.strip()} {plain_unit}')}"


def _span(text: str, unit: str) -> str:
    """A text such as '1 02:03:04' DAY TO SECOND or '1-2' YEAR TO MONTH, written out."""
    found = _SPAN.match(text)
    if found is None:
        raise SqlError(f"the text '{text}' is no INTERVAL {unit}")
    sign, years, months, days, first, second, third = found.groups()
    if years is not None:
        return f"{sign}{years} years {sign}{months} months"
    start = unit.split(" TO ")[0].split("(")[0].strip()
    hours = minutes = "0"
    seconds = third or "0"
    if start == "MINUTE" and third is None:
        minutes, seconds = first or "0", second or "0"
    else:
        hours, minutes = first or "0", second or "0"
    return f"{sign}{days or 0} days {sign}{hours} hours {sign}{minutes} minutes {sign}{seconds} seconds"


_NAMES: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(), "TINYINT": pa.int8(), "SMALLINT": pa.int16(), "INT": pa.int32(), "BIGINT": pa.int64(),
    "FLOAT": pa.float32(), "DOUBLE": pa.float64(), "TEXT": pa.string(), "VARCHAR": pa.string(), "CHAR": pa.string(),
    "VARBINARY": pa.binary(), "BINARY": pa.binary(), "DATE": pa.date32(), "TIME": pa.time32("ms"),
    "NCHAR": pa.string(), "NVARCHAR": pa.string(),
}  # fmt: skip


def type_word(data_type: Any) -> str:
    """The root of a parsed SQL type: DECIMAL of DECIMAL(10, 2)."""
    return str(data_type.this.name) if hasattr(data_type.this, "name") else str(data_type.this)


def arrow_type(data_type: Any) -> pa.DataType:
    """The Arrow type of a parsed SQL type.

    Raises:
        SqlError: a type that Forebay does not have.
    """
    name = type_word(data_type)
    params = [int(p.name) for p in data_type.expressions if isinstance(p, exp.DataTypeParam)]
    if name in _NAMES:
        return _NAMES[name]
    if name == "DECIMAL":
        return pa.decimal128(*(params or [10]), *([0] if len(params) < 2 else []))
    if name in ("TIMESTAMP", "TIMESTAMPLTZ", "TIMESTAMPTZ", "TIMESTAMPNTZ"):
        digits = params[0] if params else 6
        unit = "ms" if digits <= 3 else "us" if digits <= 6 else "ns"
        return pa.timestamp(unit, tz="UTC" if name.endswith(("LTZ", "PTZ")) else None)
    if name in ("ARRAY", "LIST") and data_type.expressions:
        return pa.list_(arrow_type(data_type.expressions[0]))
    if name == "MAP" and len(data_type.expressions) == 2:
        return pa.map_(*map(arrow_type, data_type.expressions))
    if name == "STRUCT":
        return pa.struct([(f.name, arrow_type(f.args["kind"])) for f in data_type.expressions])
    raise SqlError(f"the type {data_type.sql()} is not known")
