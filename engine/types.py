"""SQL types under Flink's names, and the Arrow type that carries each.

TIMESTAMP(p) and TIMESTAMP_LTZ(p) map to the coarsest Arrow unit that holds p digits, milliseconds at least; TIME to
time32[ms]; ROW to struct; INTERVAL to month_day_nano. VARCHAR(n) and CHAR(n) are Arrow strings: lengths are kept for
DESCRIBE and the sinks only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

_SIMPLE: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "STRING": pa.string(),
    "VARCHAR": pa.string(),
    "CHAR": pa.string(),
    "BYTES": pa.binary(),
    "VARBINARY": pa.binary(),
    "BINARY": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time32("ms"),
    "INTERVAL": pa.month_day_nano_interval(),
    "NULL": pa.null(),
}


@dataclass(frozen=True, slots=True)
class SqlType:
    """A SQL type: root name, numeric parameters, element types (ARRAY: one, MAP: two), named fields (ROW)."""

    name: str
    params: tuple[int, ...] = ()
    elements: tuple[SqlType, ...] = ()
    fields: tuple[tuple[str, SqlType], ...] = ()
    nullable: bool = True

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type that carries the values."""
        match self.name:
            case "DECIMAL":
                precision, scale = (*self.params, 10, 0)[:2] if not self.params else (*self.params, 0)[:2]
                return pa.decimal128(precision, scale)
            case "TIMESTAMP":
                return pa.timestamp(_unit(self.params))
            case "TIMESTAMP_LTZ":
                return pa.timestamp(_unit(self.params), tz="UTC")
            case "ARRAY":
                return pa.list_(self.elements[0].arrow)
            case "MAP":
                return pa.map_(self.elements[0].arrow, self.elements[1].arrow)
            case "ROW":
                return pa.struct([pa.field(n, t.arrow, t.nullable) for n, t in self.fields])
        return _SIMPLE[self.name]

    def not_null(self) -> SqlType:
        """The same type without NULL."""
        return replace(self, nullable=False)

    def __str__(self) -> str:
        text = self.name
        if self.name == "ROW":
            text = "ROW<" + ", ".join(f"`{n}` {t}" for n, t in self.fields) + ">"
        elif self.elements:
            text = f"{self.name}<{', '.join(map(str, self.elements))}>"
        elif self.params:
            text = f"{self.name}({', '.join(map(str, self.params))})"
        return text if self.nullable else text + " NOT NULL"


def _unit(params: tuple[int, ...]) -> str:
    digits = params[0] if params else 6
    return "ms" if digits <= 3 else "us" if digits <= 6 else "ns"


_FROM_ARROW: dict[pa.DataType, str] = {
    **{arrow: name for name, arrow in _SIMPLE.items() if name not in ("VARCHAR", "CHAR", "VARBINARY", "BINARY")},
    pa.large_string(): "STRING",
    pa.string_view(): "STRING",
    pa.large_binary(): "BYTES",
    pa.uint8(): "SMALLINT",
    pa.uint16(): "INT",
    pa.uint32(): "BIGINT",
    pa.uint64(): "BIGINT",
}
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def from_arrow(arrow: pa.DataType, nullable: bool = True) -> SqlType:
    """The SQL type that shows an Arrow type to the user.

    Raises:
        ValueError: the Arrow type has no SQL counterpart.
    """
    if pa.types.is_decimal(arrow):
        return SqlType("DECIMAL", (arrow.precision, arrow.scale), nullable=nullable)
    if pa.types.is_timestamp(arrow):
        return SqlType("TIMESTAMP_LTZ" if arrow.tz else "TIMESTAMP", (_DIGITS[arrow.unit],), nullable=nullable)
    if pa.types.is_time(arrow):
        return SqlType("TIME", nullable=nullable)
    if pa.types.is_interval(arrow) or pa.types.is_duration(arrow):
        return SqlType("INTERVAL", nullable=nullable)
    if pa.types.is_map(arrow):
        return SqlType("MAP", elements=(from_arrow(arrow.key_type), from_arrow(arrow.item_type)), nullable=nullable)
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow) or pa.types.is_fixed_size_list(arrow):
        return SqlType("ARRAY", elements=(from_arrow(arrow.value_type),), nullable=nullable)
    if pa.types.is_struct(arrow):
        return SqlType("ROW", fields=tuple((f.name, from_arrow(f.type, f.nullable)) for f in arrow), nullable=nullable)
    if pa.types.is_dictionary(arrow):
        return from_arrow(arrow.value_type, nullable)
    if arrow in _FROM_ARROW:
        return SqlType(_FROM_ARROW[arrow], nullable=nullable)
    raise ValueError(f"no SQL type for Arrow type {arrow}")
