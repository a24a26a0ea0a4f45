"""A rank number that no one reads is not computed: it would make every row below a newcomer change.

Flink calls this the rank number optimization; it turns up to N updates per row into two.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from forebay.planner.exprs import columns_of
from forebay.planner.nodes import Node, Project, Rank


def drop_unused_rank(node: Node) -> Node | None:
    """Project over Rank whose rank column is not among the columns read -> the same without the rank."""
    if not isinstance(node, Project) or not isinstance(node.input, Rank) or not node.input.with_rank:
        return None
    rank = len(node.input.input.schema)
    if any(rank in columns_of(e) for e in node.exprs):
        return None
    return replace(node, input=replace(node.input, schema=pa.schema(list(node.input.schema)[:rank]), with_rank=False))
