"""Rules on the logical plan: each file recognises one shape, and `apply` runs them from the leaves up until none fits."""

from __future__ import annotations

from collections.abc import Callable

from forebay.planner.nodes import Node
from forebay.planner.rules.drop_unused_rank import drop_unused_rank
from forebay.planner.rules.group_ttl import group_ttl
from forebay.planner.rules.inputs import with_inputs
from forebay.planner.rules.join_ttl import join_ttl
from forebay.planner.rules.merge_projects import merge_projects
from forebay.planner.rules.push_filter_below_columns import push_filter_below_columns
from forebay.planner.rules.push_filter_below_window import push_filter_below_window
from forebay.planner.rules.rank_from_over import rank_from_over
from forebay.planner.rules.rank_from_sort import rank_from_sort
from forebay.planner.rules.window_aggregate import window_aggregate

Rule = Callable[[Node], Node | None]
"""A node whose inputs are rewritten already; None when the shape does not fit."""

_RULES: tuple[Rule, ...] = (
    merge_projects,
    rank_from_over,
    rank_from_sort,
    drop_unused_rank,
    push_filter_below_columns,
    push_filter_below_window,
    window_aggregate,
    join_ttl,
    group_ttl,
)


def apply(node: Node) -> Node:
    """The plan after every rule."""
    inputs = tuple(map(apply, node.inputs))
    if inputs != node.inputs:
        node = with_inputs(node, inputs)
    for rule in _RULES:
        changed = rule(node)
        if changed is not None:
            return apply(changed)
    return node
