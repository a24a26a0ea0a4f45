"""ORDER BY .. LIMIT [OFFSET] becomes a `Rank` without partition; an ORDER BY without LIMIT has no meaning in a stream.

Rows of a continuous result have no order, so a lone ORDER BY is dropped (the binder tells the user); OFFSET alone is left
and refused, for it would keep everything.
"""

from __future__ import annotations

from forebay.planner.nodes import Node, Rank, RankKind
from forebay.planner.pending import Sort


def rank_from_sort(node: Node) -> Node | None:
    """Sort with a limit -> Rank; Sort without limit and offset -> its input."""
    if not isinstance(node, Sort):
        return None
    if node.limit is None:
        return node.input if not node.offset else None
    start, end = node.offset + 1, node.offset + node.limit
    return Rank(node.schema, node.input, RankKind.ROW_NUMBER, (), node.order, start, end, with_rank=False)
