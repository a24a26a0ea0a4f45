"""STATE_TTL('o'='35d') on the table that a grouping or ranking reads becomes its `ttl`.

As with joins, there may be filters and projections only between the scan and what keeps groups.
"""

from __future__ import annotations

from dataclasses import replace

from forebay.planner.nodes import Aggregate, Node, Rank
from forebay.planner.rules.join_ttl import without_hint


def group_ttl(node: Node) -> Node | None:
    """Aggregate or Rank over a Hinted input -> the same with a time to live, over the plain input."""
    if not isinstance(node, Aggregate | Rank):
        return None
    source, ttl = without_hint(node.input)
    return None if ttl is None else replace(node, input=source, ttl=ttl)
