"""What of its input an expression reads: whole columns, or fields of ROW columns.

A field is read as `CASE WHEN r IS NOT NULL THEN get_field(r, 'f') END`, as the binder writes it: NULL where the row is.
Knowing fields apart from rows lets scans decode only what is used, and filters copy only what goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from forebay.engine.expression import Leaf
from forebay.planner.expr import Call, Case, Column, Expr, Literal, Unary
from forebay.planner.exprs import children, rewritten
from forebay.planner.lifetimes import timed
from forebay.planner.nodes import Aggregate, Filter, Join, Node, Project, Rank, Scan
from forebay.planner.relation import CatalogView
from forebay.planner.stored import stored_side

Reads = dict[tuple[str, tuple[tuple[str, str], ...]], frozenset[str]]
"""Per table and hint options: names of columns, and dotted paths of fields."""


def leaf(expr: Expr, schema: pa.Schema) -> Leaf | None:
    """The column or field of a ROW that the expression over `schema` is, or None if it is neither (a MAP's item is not)."""
    match expr:
        case Column(index):
            return Leaf(index)
        case Case(None, ((Unary("IS NOT NULL", row), Call("get_field", (value, Literal(str(name))))),), None):
            inner = leaf(row, schema) if row == value else None
            if inner is None or not pa.types.is_struct(leaf_type(schema, inner)):
                return None
            return Leaf(inner.column, (*inner.path, name))
    return None


def leaves(expr: Expr, schema: pa.Schema) -> Iterable[Leaf]:
    """Every column or field that the expression reads."""
    found = leaf(expr, schema)
    if found is not None:
        yield found
    else:
        for child in children(expr):
            yield from leaves(child, schema)


def gathered(exprs: Sequence[Expr], schema: pa.Schema) -> tuple[list[Leaf], list[Expr]]:
    """The distinct leaves of the expressions over `schema`, and the expressions over them: column k is leaf k."""
    places: dict[Leaf, int] = {}

    def rule(expr: Expr) -> Expr | None:
        found = leaf(expr, schema)
        return None if found is None else Column(places.setdefault(found, len(places)))

    over = [rewritten(e, rule) for e in exprs]
    return list(places), over


def leaf_type(schema: pa.Schema, wanted: Leaf) -> pa.DataType:
    """The Arrow type of a leaf."""
    kind = schema.field(wanted.column).type
    for name in wanted.path:
        kind = kind.field(name).type
    return kind


def scan_reads(roots: Iterable[Node], catalog: CatalogView) -> Reads:
    """What the plans read of each table: what they use, what their joins store, and what dates rows."""
    reads: dict[tuple[str, tuple[tuple[str, str], ...]], set[str]] = {}

    def visit(node: Node, needed: set[Leaf]) -> None:
        match node:
            case Scan():
                names = {".".join((node.columns[n.column], *n.path)) for n in needed}
                reads.setdefault((node.table, node.options), set()).update(names)
            case Project():
                visit(node.input, {found for e in node.exprs for found in leaves(e, node.input.schema)})
            case Filter():
                visit(node.input, needed.union(leaves(node.predicate, node.input.schema)))
            case Join():
                for source, keys, ttl in zip(node.inputs, (node.left_keys, node.right_keys), node.ttl):
                    side = stored_side(source, keys, catalog)
                    source = side.table if side is not None else timed(source, catalog) if ttl else source
                    visit(source, _all(source))
            case Aggregate() | Rank() if node.ttl is not None:
                source = timed(node.input, catalog)
                visit(source, _all(source))
            case _:
                for source in node.inputs:
                    visit(source, _all(source))

    for root in roots:
        visit(root, _all(root))
    return {table: frozenset(names) for table, names in reads.items()}


def _all(node: Node) -> set[Leaf]:
    return {Leaf(i) for i in range(len(node.schema))}
