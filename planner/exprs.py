"""Walks over scalar expressions: which columns they read, the same expression over other columns, volatility."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from forebay.planner.expr import Binary, Call, Case, Cast, Column, Expr, InList, Like, Literal, Unary


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct parts of an expression."""
    match expr:
        case Binary(_, left, right):
            return (left, right)
        case Unary(_, arg) | Cast(arg, _, _):
            return (arg,)
        case Case(operand, branches, otherwise):
            parts = [part for branch in branches for part in branch]
            return tuple(e for e in (operand, *parts, otherwise) if e is not None)
        case InList(arg, items, _):
            return (arg, *items)
        case Like(_, arg, pattern, _, _):
            return (arg, pattern)
        case Call(_, args, _):
            return args
    return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and all its parts, outermost first."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def transform(expr: Expr, leaf: Callable[[Expr], Expr]) -> Expr:
    """The expression with `leaf` applied to every Column and Literal."""

    def deep(e: Expr) -> Expr:
        return transform(e, leaf)

    match expr:
        case Column() | Literal():
            return leaf(expr)
        case Binary(_, left, right):
            return replace(expr, left=deep(left), right=deep(right))
        case Unary(_, arg) | Cast(arg, _, _):
            return replace(expr, arg=deep(arg))
        case Case(operand, branches, otherwise):
            return Case(
                deep(operand) if operand is not None else None,
                tuple((deep(when), deep(then)) for when, then in branches),
                deep(otherwise) if otherwise is not None else None,
            )
        case InList(arg, items, _):
            return replace(expr, arg=deep(arg), items=tuple(map(deep, items)))
        case Like(_, arg, pattern, _, _):
            return replace(expr, arg=deep(arg), pattern=deep(pattern))
        case Call(_, args, _):
            return replace(expr, args=tuple(map(deep, args)))
    return leaf(expr)


def columns_of(expr: Expr) -> list[int]:
    """The columns that the expression reads, one entry per mention."""
    return [e.index for e in walk(expr) if isinstance(e, Column)]


def substitute(expr: Expr, columns: Sequence[Expr]) -> Expr:
    """The expression with each column replaced by the expression at its position."""
    return transform(expr, lambda e: columns[e.index] if isinstance(e, Column) else e)


def moved(expr: Expr, to: Callable[[int], int]) -> Expr:
    """The expression with each column's position mapped."""
    return transform(expr, lambda e: Column(to(e.index)) if isinstance(e, Column) else e)


def is_volatile(expr: Expr) -> bool:
    """Whether equal inputs may give other results."""
    return any(isinstance(e, Call) and e.volatile for e in walk(expr))


def conjuncts(expr: Expr) -> list[Expr]:
    """The parts of an AND, in order."""
    if isinstance(expr, Binary) and expr.op == "AND":
        return [*conjuncts(expr.left), *conjuncts(expr.right)]
    return [expr]


def conjunction(parts: Sequence[Expr]) -> Expr | None:
    """The AND of the parts; None of none."""
    result: Expr | None = None
    for part in parts:
        result = part if result is None else Binary("AND", result, part)
    return result
