"""Typed scalar expressions over the columns of one input, addressed by position.

Decoded from DataFusion's optimized plan, so casts and coercions are explicit and every name is resolved.
`planner.render` turns them into SQL for the evaluator; names are DataFusion's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Expr:
    """A scalar expression."""


@dataclass(frozen=True, slots=True)
class Column(Expr):
    """The input's column at `index`."""

    index: int


@dataclass(frozen=True, slots=True)
class Literal(Expr):
    """A constant; `value` is None for a typed NULL. Values are Python's (int, str, Decimal, datetime ...)."""

    value: Any
    type: pa.DataType


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    """`op` as in SQL: = <> < <= > >= + - * / % AND OR || IS DISTINCT FROM ..."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    """`op`: NOT, -, IS NULL, IS NOT NULL, IS TRUE, IS NOT TRUE, IS FALSE ..."""

    op: str
    arg: Expr


@dataclass(frozen=True, slots=True)
class Cast(Expr):
    """CAST, or TRY_CAST when `safe`."""

    arg: Expr
    type: pa.DataType
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Case(Expr):
    """CASE [operand] WHEN .. THEN .. [ELSE ..] END."""

    operand: Expr | None
    branches: tuple[tuple[Expr, Expr], ...]
    otherwise: Expr | None


@dataclass(frozen=True, slots=True)
class InList(Expr):
    arg: Expr
    items: tuple[Expr, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Like(Expr):
    """LIKE, ILIKE or SIMILAR TO (`op`)."""

    op: str
    arg: Expr
    pattern: Expr
    escape: str | None = None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """A scalar function by DataFusion's or the user's name. `volatile` if equal inputs may give other results."""

    name: str
    args: tuple[Expr, ...]
    volatile: bool = False
