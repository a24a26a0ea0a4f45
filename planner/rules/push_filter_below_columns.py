"""A Filter over a Project that only picks columns goes below it: nearer to the source, and to a window table to pass.

Always safe: the predicate reads the same values.
"""

from __future__ import annotations

from forebay.planner.expr import Column
from forebay.planner.exprs import substitute
from forebay.planner.nodes import Filter, Node, Project


def push_filter_below_columns(node: Node) -> Node | None:
    """Filter over Project of plain columns -> Project over Filter."""
    if not isinstance(node, Filter) or not isinstance(node.input, Project):
        return None
    picked = node.input
    if not all(isinstance(e, Column) for e in picked.exprs):
        return None
    source = picked.input
    return Project(picked.schema, Filter(source.schema, source, substitute(node.predicate, picked.exprs)), picked.exprs)
