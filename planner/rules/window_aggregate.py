"""GROUP BY with the bounds of a window table becomes `WindowAggregate`: each group is emitted once, when it closes.

A group closes when the watermark passes its window's end, so the end must be a key or follow from one: window_time always
tells it, window_start only where all windows have one size (not CUMULATE, not SESSION).
"""

from __future__ import annotations

from enum import Enum

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
    ends = [k for k in node.keys if bounds.get(k) is Bound.END] or [c for c, b in bounds.items() if b is Bound.END]
    if not ends:
        return None
    return WindowAggregate(node.schema, node.input, node.keys, node.calls, ends[0])


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
