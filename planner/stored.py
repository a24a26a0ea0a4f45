"""What a side of a join is stored as: the whole table that it reads, where jobs can share that.

A join input that is a table of a connector under filters and projections, joined by columns of the table, is stored as the table
itself, and the job sees it through a *lens*: its filters and projections, applied after the probe. So all jobs that join the
table by these columns keep one copy, and a new filter or column needs no new state. The table's option 'state.columns' says
which columns are stored: 'all' (the default), a list, or 'used', which stores only the rows and columns that a job uses, for
itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from forebay.planner.expr import Column, Expr
from forebay.planner.exprs import conjunction, is_volatile, substitute
from forebay.planner.nodes import Filter, Node, Project, Scan
from forebay.planner.relation import CatalogView


@dataclass(frozen=True, slots=True)
class StoredSide:
    """A side of a join as a table and a lens over it."""

    table: Scan
    """All stored columns."""
    keys: tuple[int, ...]
    """The join's keys, as columns of `table`."""
    exprs: tuple[Expr, ...]
    """What the join sees, over `table`; of the rows that pass `predicate`."""
    predicate: Expr | None


def stored_side(node: Node, keys: Sequence[int], catalog: CatalogView) -> StoredSide | None:
    """How to store the input `node` of a join by `keys` as a table; None where it must be stored as it is."""
    exprs: list[Expr] = [Column(i) for i in range(len(node.schema))]
    predicates: list[Expr] = []
    while not isinstance(node, Scan):
        match node:
            case Project():
                exprs, predicates = ([substitute(e, node.exprs) for e in part] for part in (exprs, predicates))
            case Filter():
                predicates.insert(0, node.predicate)
            case _:
                return None
        node = node.input
    schema = catalog.stored(node.table, node.options)
    columns = None if schema is None else _columns(node, schema, catalog)
    if schema is None or columns is None:
        return None
    exprs, predicates = ([substitute(e, columns) for e in part] for part in (exprs, predicates))
    by = [exprs[k] for k in keys]
    if not by or not all(isinstance(e, Column) for e in by) or any(map(is_volatile, [*exprs, *predicates])):
        return None
    table = Scan(schema, node.table, tuple(schema.names), node.options)
    return StoredSide(table, tuple(e.index for e in by if isinstance(e, Column)), tuple(exprs), conjunction(predicates))


def _columns(scan: Scan, schema: pa.Schema, catalog: CatalogView) -> list[Expr] | None:
    """The columns of a scan over the stored ones; None if one needs what is not stored."""
    found: list[Expr | None] = [
        Column(schema.get_field_index(name)) if name in schema.names else catalog.computed(scan.table, name, schema)
        for name in scan.columns
    ]
    return None if None in found else [e for e in found if e is not None]
