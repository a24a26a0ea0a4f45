"""ROW_NUMBER, RANK or DENSE_RANK OVER (...) with a filter on the rank becomes `Rank`: Top-N and deduplication.

Safe when the filter bounds the rank from above by a constant; further conditions stay as a Filter on top. The rank is
BIGINT in `Rank`, so casts of DataFusion's UInt64 rank vanish.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from forebay.planner.build import project
from forebay.planner.expr import Binary, Cast, Column, Expr, Literal
from forebay.planner.exprs import conjunction, conjuncts, rewritten, substitute
from forebay.planner.nodes import Filter, Node, Project, Rank, RankKind
from forebay.planner.pending import Over

_KINDS = {kind.value: kind for kind in RankKind}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}


@dataclass(frozen=True, slots=True)
class _Bounds:
    start: int = 1
    end: int | None = None

    def narrowed(self, op: str, value: int) -> _Bounds:
        low, high = {
            "=": (value, value),
            "<": (1, value - 1),
            "<=": (1, value),
            ">": (value + 1, None),
            ">=": (value, None),
        }[op]
        ends = [e for e in (self.end, high) if e is not None]
        return _Bounds(max(self.start, low), min(ends) if ends else None)


def rank_from_over(node: Node) -> Node | None:
    """Filter over [Project over] Over with one ranking call -> [Filter over] Project over Rank."""
    if not isinstance(node, Filter):
        return None
    source = node.input
    over = source.input if isinstance(source, Project) else source
    if not isinstance(over, Over) or len(over.calls) != 1 or over.calls[0].name not in _KINDS:
        return None
    columns: tuple[Expr, ...] = (
        source.exprs if isinstance(source, Project) else tuple(map(Column, range(len(over.schema))))
    )
    rank = len(over.input.schema)
    bounds, rest = _split(substitute(node.predicate, columns), rank)
    if bounds.end is None or not over.calls[0].order:
        return None
    call = over.calls[0]
    schema = over.schema.set(rank, pa.field(over.schema.field(rank).name, pa.int64(), False))
    ranked: Node = Rank(
        schema, over.input, _KINDS[call.name], call.partition, call.order, bounds.start, bounds.end, with_rank=True
    )
    condition = conjunction([_as_bigint(e, rank) for e in rest])
    if condition is not None:
        ranked = Filter(schema, ranked, condition)
    return project(ranked, tuple(_as_bigint(e, rank) for e in columns), node.schema)


def _split(predicate: Expr, rank: int) -> tuple[_Bounds, list[Expr]]:
    """The bounds that the predicate sets on the rank, and its other conjuncts."""
    bounds, rest = _Bounds(), []
    for part in conjuncts(predicate):
        found = _comparison(part, rank)
        if found is None:
            rest.append(part)
        else:
            bounds = bounds.narrowed(*found)
    return bounds, rest


def _comparison(part: Expr, rank: int) -> tuple[str, int] | None:
    """(op, n) of `rank op n`."""
    if not isinstance(part, Binary) or part.op not in _FLIPPED:
        return None
    left, op, right = part.left, part.op, part.right
    if isinstance(left, Literal):
        left, op, right = right, _FLIPPED[op], left
    if _is_rank(left, rank) and isinstance(right, Literal) and isinstance(right.value, int):
        return op, right.value
    return None


def _is_rank(expr: Expr, rank: int) -> bool:
    return expr == Column(rank) or (isinstance(expr, Cast) and _is_rank(expr.arg, rank))


def _as_bigint(expr: Expr, rank: int) -> Expr:
    """The expression over a rank that is BIGINT itself."""

    def plain(e: Expr) -> Expr | None:
        is_cast = isinstance(e, Cast) and e.type == pa.int64() and e.arg == Column(rank)
        return Column(rank) if is_cast else None

    return rewritten(expr, plain)
