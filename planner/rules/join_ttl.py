"""STATE_TTL('o'='35d') on a table of a join becomes the join's `ttl` for that side.

The hint sticks to the table's scan until here; between scan and join there may be filters and projections only, as in Flink,
where a hint names a direct input of the join.
"""

from __future__ import annotations

from dataclasses import replace

from forebay.planner.nodes import Filter, Join, Node, Project
from forebay.planner.pending import Hinted
from forebay.planner.rules.inputs import with_inputs


def join_ttl(node: Node) -> Node | None:
    """Join over Hinted inputs -> Join with a time to live per side, over the plain inputs."""
    if not isinstance(node, Join):
        return None
    left, left_ttl = without_hint(node.left)
    right, right_ttl = without_hint(node.right)
    if left_ttl is None and right_ttl is None:
        return None
    old_left, old_right = node.ttl
    ttl = (old_left if left_ttl is None else left_ttl, old_right if right_ttl is None else right_ttl)
    return replace(node, left=left, right=right, ttl=ttl)


def drop_hint(node: Node) -> Node:
    """The plan without hints that nothing took: the table is neither joined nor grouped where it is hinted."""
    if isinstance(node, Hinted):
        return drop_hint(node.input)
    inputs = tuple(map(drop_hint, node.inputs))
    return node if inputs == node.inputs else with_inputs(node, inputs)


def without_hint(node: Node) -> tuple[Node, int | None]:
    """The node without the hint of its table, and what that says, in ms."""
    match node:
        case Hinted(_, source, ttl):
            return source, ttl
        case Filter(_, source) | Project(_, source):
            below, found = without_hint(source)
            return (node if found is None else replace(node, input=below)), found
    return node, None
