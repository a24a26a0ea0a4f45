"""A condition on the input's columns runs before rows are assigned to windows: a row of a HOP counts size/slide times.

Safe for TUMBLE, HOP and CUMULATE, whose windows depend on the row alone; a SESSION depends on its neighbours.
"""

from __future__ import annotations

from dataclasses import replace

from forebay.planner.exprs import columns_of, conjunction, conjuncts, is_volatile
from forebay.planner.nodes import Filter, Node, WindowKind, WindowTable


def push_filter_below_window(node: Node) -> Node | None:
    """Filter over WindowTable -> [Filter over] WindowTable over Filter."""
    if not isinstance(node, Filter) or not isinstance(node.input, WindowTable):
        return None
    table = node.input
    if table.window.kind is WindowKind.SESSION:
        return None
    width = len(table.input.schema)
    parts = conjuncts(node.predicate)
    below = [p for p in parts if columns_of(p) and max(columns_of(p)) < width and not is_volatile(p)]
    condition = conjunction(below)
    if condition is None:
        return None
    table = replace(table, input=Filter(table.input.schema, table.input, condition))
    rest = conjunction([p for p in parts if p not in below])
    return table if rest is None else Filter(node.schema, table, rest)
