"""DataFusion's serialized expressions (`Expr.to_bytes()`) as `planner.expr` trees.

The byte format is the only complete view of an expression: the Python variants lack CAST targets, aggregate FILTER and
ORDER BY, and window frames. Field numbers are those of datafusion 55; they are stable within a major version only, which
the round-trip test of `tests/planner/test_decode.py` guards. Columns resolve to positions while decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from forebay.engine.errors import InternalError, UnsupportedError
from forebay.planner.expr import Binary, Call, Case, Cast, Column, Expr, InList, Like, Unary
from forebay.planner.literal import data_type, scalar
from forebay.planner.wire import Message

Resolve = Callable[[str, str], int]
"""From relation ('' if unqualified) and column name to the input's column position."""


@dataclass(frozen=True, slots=True)
class Order:
    """One ORDER BY item."""

    expr: Expr
    ascending: bool
    nulls_first: bool


@dataclass(frozen=True, slots=True)
class AggregateExpr:
    """A call of an aggregate function, not yet reduced to columns."""

    name: str
    args: tuple[Expr, ...]
    distinct: bool
    filter: Expr | None
    order: tuple[Order, ...]
    ignore_nulls: bool = False


@dataclass(frozen=True, slots=True)
class WindowExpr:
    """A function OVER a window. `frame` is (units, start, end) in SQL words."""

    name: str
    args: tuple[Expr, ...]
    partition: tuple[Expr, ...]
    order: tuple[Order, ...]
    frame: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class GroupingSets:
    """GROUPING SETS, ROLLUP or CUBE among the group keys."""

    sets: tuple[tuple[Expr, ...], ...]


Decoded = Expr | AggregateExpr | WindowExpr | GroupingSets

_BINARY = {
    "Eq": "=", "NotEq": "<>", "Lt": "<", "LtEq": "<=", "Gt": ">", "GtEq": ">=", "Plus": "+", "Minus": "-",
    "Multiply": "*", "Divide": "/", "Modulo": "%", "And": "AND", "Or": "OR", "StringConcat": "||",
    "IsDistinctFrom": "IS DISTINCT FROM", "IsNotDistinctFrom": "IS NOT DISTINCT FROM", "RegexMatch": "~",
    "RegexIMatch": "~*", "RegexNotMatch": "!~", "RegexNotIMatch": "!~*", "BitwiseAnd": "&", "BitwiseOr": "|",
    "BitwiseXor": "#", "BitwiseShiftLeft": "<<", "BitwiseShiftRight": ">>", "AtArrow": "@>", "ArrowAt": "<@",
}  # fmt: skip
_UNARY = {
    6: "IS NULL", 7: "IS NOT NULL", 8: "NOT", 13: "-", 25: "IS TRUE", 26: "IS FALSE", 27: "IS UNKNOWN",
    28: "IS NOT TRUE", 29: "IS NOT FALSE", 30: "IS NOT UNKNOWN",
}  # fmt: skip
_LIKE = {31: "LIKE", 32: "ILIKE", 33: "SIMILAR TO"}
_FRAME_UNITS = ("ROWS", "RANGE", "GROUPS")
_IGNORE_NULLS = 1


class Decoder:
    """Decodes the expressions of one plan node, whose input columns `resolve` knows."""

    def __init__(self, resolve: Resolve, volatile: Callable[[str], bool]) -> None:
        self._resolve = resolve
        self._volatile = volatile

    def scalar(self, data: bytes) -> Expr:
        """An expression that yields one value per row.

        Raises:
            UnsupportedError: it holds a construct that no streaming operator evaluates.
        """
        decoded = self.any(data)
        if not isinstance(decoded, Expr):
            raise InternalError(f"a scalar expression was expected, not {type(decoded).__name__}")
        return decoded

    def any(self, data: bytes) -> Decoded:
        """An expression of any kind; aliases are dropped."""
        message = Message(data)
        while message.has(2):
            message = message.message(2).message(1)
        match message.one_of():
            case 18:
                return self._window(message.message(18))
            case 19:
                return self._aggregate(message.message(19))
            case 22:
                sets = message.message(22).messages(1)
                return GroupingSets(tuple(tuple(self._exprs(s, 1)) for s in sets))
            case 23:
                keys = self._exprs(message.message(23), 1)
                subsets = range(2 ** len(keys) - 1, -1, -1)
                n = len(keys) - 1
                return GroupingSets(tuple(tuple(k for i, k in enumerate(keys) if s >> (n - i) & 1) for s in subsets))
            case 24:
                keys = self._exprs(message.message(24), 1)
                return GroupingSets(tuple(tuple(keys[:n]) for n in range(len(keys), -1, -1)))
        return self._expr(message)

    def _expr(self, message: Message) -> Expr:
        number = message.one_of()
        if number is None:
            raise InternalError("an empty expression")
        m = message.message(number)
        if number in _UNARY:
            return Unary(_UNARY[number], self._child(m, 1))
        match number:
            case 1:
                return Column(self._resolve(m.message(2).text(1), m.text(1)))
            case 2:
                return self._child(m, 1)
            case 3:
                return scalar(m)
            case 4:
                return self._binary(m)
            case 9:
                return self._between(m)
            case 10:
                return self._case(m)
            case 11 | 17:
                return Cast(self._child(m, 1), data_type(m.message(2)), safe=number == 17)
            case 14:
                return InList(self._child(m, 1), tuple(self._exprs(m, 2)), m.flag(3))
            case 20 if m.text(1) == "get_field":
                return field_of(*self._exprs(m, 2))
            case 20 | 37:
                name = m.text(1)
                return Call(name, tuple(self._exprs(m, 2)), self._volatile(name))
            case 31 | 32 | 33:
                escape = m.text(4) or None
                return Like(_LIKE[number], self._child(m, 2), self._child(m, 3), escape, m.flag(1))
        raise UnsupportedError(f"this kind of expression is not supported ({_NAMES.get(number, number)})")

    def _child(self, message: Message, number: int) -> Expr:
        return self._expr(message.message(number))

    def _exprs(self, message: Message, number: int) -> list[Expr]:
        return [self._expr(m) for m in message.messages(number)]

    def _binary(self, m: Message) -> Expr:
        op = _BINARY.get(m.text(3))
        if op is None:
            raise UnsupportedError(f"the operator {m.text(3)} is not supported")
        first, *rest = self._exprs(m, 1)
        for operand in rest:
            first = Binary(op, first, operand)
        return first

    def _between(self, m: Message) -> Expr:
        arg, low, high = self._child(m, 1), self._child(m, 3), self._child(m, 4)
        if m.flag(2):
            return Binary("OR", Binary("<", arg, low), Binary(">", arg, high))
        return Binary("AND", Binary(">=", arg, low), Binary("<=", arg, high))

    def _case(self, m: Message) -> Expr:
        branches = tuple((self._child(b, 1), self._child(b, 2)) for b in m.messages(2))
        operand = self._child(m, 1) if m.has(1) else None
        return Case(operand, branches, self._child(m, 3) if m.has(3) else None)

    def _orders(self, m: Message, number: int) -> tuple[Order, ...]:
        return tuple(Order(self._child(s, 1), s.flag(2), s.flag(3)) for s in m.messages(number))

    def order(self, data: bytes, ascending: bool, nulls_first: bool) -> Order:
        """One item of a Sort node."""
        return Order(self.scalar(data), ascending, nulls_first)

    def _aggregate(self, m: Message) -> AggregateExpr:
        return AggregateExpr(
            name=m.text(1).lower(),
            args=tuple(self._exprs(m, 2)),
            distinct=m.flag(5),
            filter=self._child(m, 3) if m.has(3) else None,
            order=self._orders(m, 4),
            ignore_nulls=m.has(7) and m.uint(7) == _IGNORE_NULLS,
        )

    def _window(self, m: Message) -> WindowExpr:
        if m.flag(12) or m.has(13):
            raise UnsupportedError("DISTINCT or FILTER in an OVER aggregate is not supported")
        return WindowExpr(
            name=(m.text(3) or m.text(9)).lower(),
            args=tuple(self._exprs(m, 4)),
            partition=tuple(self._exprs(m, 5)),
            order=self._orders(m, 6),
            frame=_frame(m.message(8)),
        )


_NAMES = {15: "*", 16: "*", 34: "a parameter", 35: "UNNEST", 36: "a scalar subquery", 38: "lambda", 39: "lambda"}


def field_of(value: Expr, *path: Expr) -> Expr:
    """A field of a ROW or an entry of a MAP: NULL where the whole is NULL, which DataFusion's get_field forgets."""
    for name in path:
        value = Case(None, ((Unary("IS NOT NULL", value), Call("get_field", (value, name))),), None)
    return value


def _frame(m: Message) -> tuple[str, str, str]:
    return (_FRAME_UNITS[m.uint(1)], _bound(m.message(2)), _bound(m.message(3)) if m.has(3) else "CURRENT ROW")


def _bound(m: Message) -> str:
    kind = ("CURRENT ROW", "PRECEDING", "FOLLOWING")[m.uint(1)]
    if kind == "CURRENT ROW":
        return kind
    value: Any = scalar(m.message(2)).value if m.has(2) and m.message(2).one_of() is not None else None
    return f"{'UNBOUNDED' if value is None else value} {kind}"
