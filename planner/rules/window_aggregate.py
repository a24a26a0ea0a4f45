"""GROUP BY with the bounds of a window table becomes `WindowAggregate`: each group is emitted once, when it closes.

A group closes when the watermark passes its window's end, so the end must be a key or follow from one: window_time always
tells it, window_start only where all windows have one size (not CUMULATE, not SESSION).
"""

from __future__ import annotations

from enum import Enum

from forebay.planner.build import unique_schema
from forebay.planner.expr import Column
from forebay.planner.nodes import (
    Aggregate,
    Filter,
    Join,
    JoinKind,
    Node,
    Project,
    Rank,
    Unnest,
    WindowAggregate,
    WindowKind,
    WindowTable,
)


class Bound(Enum):
    """What a column says about the window of its row."""

    START = "start"
    FIXED_START = "start of a window of known size"
    END = "end"
    TIME = "time"


def window_aggregate(node: Node) -> Node | None:
    """Aggregate by window bounds -> WindowAggregate."""
    if not isinstance(node, Aggregate):
        return None
    bounds = window_bounds(node.input)
    if not any(bounds.get(k) in (Bound.END, Bound.TIME, Bound.FIXED_START) for k in node.keys):
        return None
    found = with_window_end(node.input)
    if found is None:
        return None
    source, end = found
    return WindowAggregate(node.schema, source, node.keys, node.calls, end)


def with_window_end(node: Node) -> tuple[Node, int] | None:
    """The node with the end of its rows' windows among its columns, and its position; None if it is out of reach."""
    ends = [c for c, b in window_bounds(node).items() if b is Bound.END]
    if ends:
        return node, ends[0]
    if not isinstance(node, Project | Filter):
        return None
    below = with_window_end(node.input)
    if below is None:
        return None
    source, end = below
    if isinstance(node, Filter):
        return Filter(source.schema, source, node.predicate), end
    schema = unique_schema([*node.schema, source.schema.field(end)])
    return Project(schema, source, (*node.exprs, Column(end))), len(node.exprs)


def window_bounds(node: Node) -> dict[int, Bound]:
    """Output columns that are bounds of a window."""
    match node:
        case WindowTable(_, source, window):
            width = len(source.schema)
            fixed = window.kind in (WindowKind.TUMBLE, WindowKind.HOP)
            start = Bound.FIXED_START if fixed else Bound.START
            return {width: start, width + 1: Bound.END, width + 2: Bound.TIME}
        case Project(_, source, exprs):
            inner = window_bounds(source)
            return {i: inner[e.index] for i, e in enumerate(exprs) if isinstance(e, Column) and e.index in inner}
        case Filter(_, source, _) | Rank(_, source) | Unnest(_, source):
            return window_bounds(source)
        case WindowAggregate(_, source, keys):
            inner = window_bounds(source)
            return {i: inner[k] for i, k in enumerate(keys) if k in inner}
        case Join(_, left, _, kind) if kind in (JoinKind.LEFT_SEMI, JoinKind.LEFT_ANTI, JoinKind.INNER, JoinKind.LEFT):
            return window_bounds(left)
    return {}
