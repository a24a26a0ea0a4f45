"""Walks over scalar expressions: which columns they read, the same expression over other columns, volatility."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from forebay.planner.expr import Binary, Call, Case, Cast, Column, Expr, InList, Like, Unary


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


def with_children(expr: Expr, parts: Sequence[Expr]) -> Expr:
    """The expression over other parts, in the order of `children`."""
    match expr:
        case Binary():
            return replace(expr, left=parts[0], right=parts[1])
        case Unary() | Cast():
            return replace(expr, arg=parts[0])
        case Case(operand, branches, otherwise):
            first = 0 if operand is None else 1
            pairs = tuple((parts[i], parts[i + 1]) for i in range(first, first + 2 * len(branches), 2))
            return Case(parts[0] if first else None, pairs, None if otherwise is None else parts[-1])
        case InList():
            return replace(expr, arg=parts[0], items=tuple(parts[1:]))
        case Like():
            return replace(expr, arg=parts[0], pattern=parts[1])
        case Call():
            return replace(expr, args=tuple(parts))
    return expr


def rewritten(expr: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """The expression with every part that `rule` has a replacement for replaced, from the outside in."""
    found = rule(expr)
    if found is not None:
        return found
    return with_children(expr, [rewritten(c, rule) for c in children(expr)])


def columns_of(expr: Expr) -> list[int]:
    """The columns that the expression reads, one entry per mention."""
    return [e.index for e in walk(expr) if isinstance(e, Column)]


def substitute(expr: Expr, columns: Sequence[Expr]) -> Expr:
    """The expression with each column replaced by the expression at its position."""
    return rewritten(expr, lambda e: columns[e.index] if isinstance(e, Column) else None)


def moved(expr: Expr, to: Callable[[int], int]) -> Expr:
    """The expression with each column's position mapped."""
    return rewritten(expr, lambda e: Column(to(e.index)) if isinstance(e, Column) else None)


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
