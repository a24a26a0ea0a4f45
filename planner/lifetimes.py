"""How long the rows of each side of a join live, and what groupings and rankings keep; and the time that tells how old they are.

The first of these that says something: a STATE_TTL hint that names the input; the option 'state.ttl' of the table that it
reads through filters and projections; the session's 'table.exec.state.ttl'. The time of a row is the table's watermark column,
wherever it is needed kept among the stored columns; else the time at which the row came.

NOT IN keeps its rows for ever, and so does a grouping by window: its groups end with their windows.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from forebay.planner.build import unique_schema
from forebay.planner.changelog import infer
from forebay.planner.expr import Column
from forebay.planner.nodes import Aggregate, Filter, Join, Node, Project, Rank, Scan, Values
from forebay.planner.relation import CatalogView
from forebay.planner.rules.inputs import with_inputs


def with_lifetimes(node: Node, catalog: CatalogView, default: int) -> Node:
    """The plan with what rules in its joins, groupings and rankings. `default`: the session's, in ms; 0: for ever."""
    inputs = tuple(with_lifetimes(part, catalog, default) for part in node.inputs)
    if inputs != node.inputs:
        node = with_inputs(node, inputs)
    if isinstance(node, Aggregate | Rank):
        ttl, table = _group_lifetime(node.input, node.ttl, catalog, default)
        return replace(node, ttl=ttl, ttl_of=table)
    if not isinstance(node, Join):
        return node
    sides = [_lifetime(part, hint, catalog, default) for part, hint in zip(inputs, node.ttl)]
    if node.null_aware:
        sides = [(None, ""), (None, "")]
    (left, left_of), (right, right_of) = sides
    return replace(node, ttl=(left, right), ttl_of=(left_of, right_of))


def _lifetime(side: Node, hint: int | None, catalog: CatalogView, default: int) -> tuple[int | None, str]:
    """(ms or None, the table whose option rules)."""
    if hint is not None:
        return hint or None, ""
    scan = scanned(side)
    if scan is None:
        return default or None, ""
    relation = catalog.relation(scan.table, scan.options)
    own = relation.ttl if relation is not None else None
    return (default if own is None else own) or None, scan.table


def _group_lifetime(source: Node, hint: int | None, catalog: CatalogView, default: int) -> tuple[int | None, str]:
    """As `_lifetime`; 0 where a table says so: its option may say otherwise later."""
    ttl, table = _lifetime(source, hint, catalog, default)
    scan = scanned(source)
    relation = catalog.relation(table, scan.options) if table and scan is not None else None
    return (0 if ttl is None and relation is not None and relation.ttl == 0 else ttl), table


def repeats(node: Node, catalog: CatalogView, default: int) -> bool:
    """Whether rows of one key may come without a retraction of the older: what keeps them by that key forgets.

    `default`: the session's, in ms, by which upserts of a table are kept.
    """
    if isinstance(node, Aggregate | Rank) and node.ttl is not None:
        return True
    if isinstance(node, Scan):
        relation = catalog.relation(node.table, node.options)
        return bool(default) and relation is not None and relation.updating and bool(relation.primary_key)
    return any(repeats(part, catalog, default) for part in node.inputs)


def scanned(side: Node) -> Scan | None:
    """The table of which the side shows rows, if it is one table's."""
    while isinstance(side, Filter | Project):
        side = side.input
    return side if isinstance(side, Scan) else None


def time_of(node: Node, catalog: CatalogView) -> int | None:
    """The column of the node that has its rows' event time; None if it has none."""
    return next(iter(infer(node, catalog)[id(node)].time), None)


def has_watermark(node: Node, catalog: CatalogView) -> bool:
    """Whether a watermark tells how far the node's rows have come: all that it reads have one, or an end."""
    if isinstance(node, Scan):
        relation = catalog.relation(node.table, node.options)
        return relation is not None and (bool(relation.time_columns) or relation.bounded)
    return isinstance(node, Values) or (bool(node.inputs) and all(has_watermark(part, catalog) for part in node.inputs))


def timed(node: Node, catalog: CatalogView) -> Node:
    """The node with its table's event time as last column, where it has left that out; else itself."""
    scan = scanned(node)
    relation = None if scan is None else catalog.relation(scan.table, scan.options)
    if relation is None or not relation.time_columns or time_of(node, catalog) is not None:
        return node
    name = relation.time_columns[0]
    return _with_column(node, name, relation.schema.field(name))


def _with_column(node: Node, name: str, field: pa.Field) -> Node:
    schema = unique_schema([*node.schema, field])
    match node:
        case Scan():
            return replace(node, schema=schema, columns=(*node.columns, name))
        case Filter():
            return replace(node, schema=schema, input=_with_column(node.input, name, field))
        case Project():
            return Project(schema, _with_column(node.input, name, field), (*node.exprs, Column(len(node.input.schema))))
    return node
