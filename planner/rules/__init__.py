"""Rules on the logical plan: each file recognises one shape, and `apply` runs them from the leaves up until none fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from forebay.planner.nodes import Join, Node, Union
from forebay.planner.rules.drop_unused_rank import drop_unused_rank
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


def with_inputs(node: Node, inputs: tuple[Node, ...]) -> Node:
    """The same node over other inputs of the same schemas."""
    match node:
        case Join():
            return replace(node, left=inputs[0], right=inputs[1])
        case Union():
            return replace(node, parts=inputs)
    return replace(node, input=inputs[0])  # type: ignore[call-arg]
