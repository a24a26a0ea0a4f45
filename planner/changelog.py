"""What each node's output is as a changelog: does it retract, what is unique in it, which columns carry a watermark.

Inference runs from the leaves up and never guesses: a key is claimed only where it follows from the inputs' keys. A declared
primary key is trusted where the table replaces rows by it (an append-only topic may well hold two rows of one key).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from forebay.engine.errors import UnsupportedError
from forebay.planner.expr import Column
from forebay.planner.exprs import is_volatile
from forebay.planner.nodes import (
    Aggregate,
    Filter,
    Join,
    JoinKind,
    Node,
    Project,
    Rank,
    RankKind,
    Scan,
    Sink,
    Traits,
    Union,
    Unnest,
    Values,
    WindowAggregate,
    WindowTable,
)
from forebay.planner.relation import CatalogView
from forebay.planner.rules.window_aggregate import Bound, window_bounds

Keys = tuple[tuple[int, ...], ...]
_MOST_KEYS = 8
"""Chained joins multiply keys; more than a few never helped a sink."""


def infer(plan: Node, catalog: CatalogView) -> dict[int, Traits]:
    """Traits of every node of the plan, by `id`.

    Raises:
        UnsupportedError: a node cannot run over the changelog that it reads.
    """
    traits: dict[int, Traits] = {}

    def visit(node: Node) -> Traits:
        inputs = [visit(part) for part in node.inputs]
        traits[id(node)] = found = _of(node, inputs, catalog)
        return found

    visit(plan)
    return traits


def covers(keys: Iterable[Sequence[int]], columns: Iterable[int]) -> bool:
    """Whether the columns determine a row: they hold one of its keys."""
    have = set(columns)
    return any(have.issuperset(key) for key in keys)


def remembers_output(node: Node, traits: dict[int, Traits]) -> bool:
    """Whether the node has to remember what it made of each row: a volatile expression over rows that may be retracted.

    Evaluated again at the retraction it would give another value, and take away a row that was never there.
    """
    match node:
        case Project(_, source, exprs):
            return traits[id(source)].updating and any(map(is_volatile, exprs))
        case Filter(_, source, predicate):
            return traits[id(source)].updating and is_volatile(predicate)
        case Join(_, left, right, _, _, _, residual) if residual is not None and is_volatile(residual):
            return traits[id(left)].updating or traits[id(right)].updating
    return False


def _of(node: Node, inputs: list[Traits], catalog: CatalogView) -> Traits:
    match node:
        case Scan():
            return _scan(node, catalog)
        case Values():
            return Traits(False, ((),) if len(node.rows) <= 1 else (), bounded=True)
        case Filter() | Sink():
            return inputs[0]
        case Project():
            return _project(node, inputs[0])
        case Union():
            return Traits(
                updating=any(t.updating for t in inputs),
                time=tuple(c for c in inputs[0].time if all(c in t.time for t in inputs)),
                bounded=all(t.bounded for t in inputs),
            )
        case Join():
            return _join(node, *inputs)
        case Aggregate():
            keys = (tuple(range(len(node.keys))),)
            return Traits(bool(node.calls) or inputs[0].updating, keys, bounded=inputs[0].bounded)
        case WindowAggregate():
            bounds = window_bounds(node)
            time = tuple(i for i, b in bounds.items() if b in (Bound.END, Bound.TIME))
            return Traits(False, (tuple(range(len(node.keys))),), time, inputs[0].bounded)
        case WindowTable():
            return _window_table(node, inputs[0])
        case Rank():
            return _rank(node, inputs[0])
        case Unnest():
            kept = tuple(c for c in inputs[0].time if c not in node.columns)
            return Traits(inputs[0].updating, (), kept, inputs[0].bounded)
    raise UnsupportedError(f"{type(node).__name__} cannot run continuously")


def _scan(node: Scan, catalog: CatalogView) -> Traits:
    relation = catalog.relation(node.table, node.options)
    if relation is None:
        raise UnsupportedError(f"table {node.table} was dropped")
    position = {name: i for i, name in enumerate(node.columns)}
    key = tuple(position[c] for c in relation.primary_key if c in position)
    trusted = relation.updating and key and len(key) == len(relation.primary_key)
    time = tuple(position[c] for c in relation.time_columns if c in position)
    return Traits(relation.updating, (key,) if trusted else (), time, relation.bounded)


def _project(node: Project, source: Traits) -> Traits:
    places: dict[int, int] = {}
    for i, e in enumerate(node.exprs):
        if isinstance(e, Column):
            places.setdefault(e.index, i)
    keys = tuple(tuple(places[c] for c in key) for key in source.keys if all(c in places for c in key))
    time = tuple(i for i, e in enumerate(node.exprs) if isinstance(e, Column) and e.index in source.time)
    return Traits(source.updating, keys, time, source.bounded)


def _join(node: Join, left: Traits, right: Traits) -> Traits:
    bounded = left.bounded and right.bounded
    updating = left.updating or right.updating
    if node.kind in (JoinKind.LEFT_SEMI, JoinKind.RIGHT_SEMI):
        return Traits(updating, left.keys if node.kind is JoinKind.LEFT_SEMI else right.keys, bounded=bounded)
    if node.kind in (JoinKind.LEFT_ANTI, JoinKind.LEFT_MARK):
        return Traits(True, left.keys, bounded=bounded)
    if node.kind is JoinKind.RIGHT_ANTI:
        return Traits(True, right.keys, bounded=bounded)
    width = len(node.left.schema)
    shifted = tuple(tuple(c + width for c in key) for key in right.keys)
    keys: list[tuple[int, ...]] = []
    if covers(right.keys, node.right_keys) and node.kind in (JoinKind.INNER, JoinKind.LEFT):
        keys += left.keys
    if covers(left.keys, node.left_keys) and node.kind in (JoinKind.INNER, JoinKind.RIGHT):
        keys += shifted
    keys += [pair for a, b in product(left.keys, shifted) if not covers(keys, pair := (*a, *b))]
    return Traits(updating or node.kind is not JoinKind.INNER, tuple(keys[:_MOST_KEYS]), bounded=bounded)


def _window_table(node: WindowTable, source: Traits) -> Traits:
    name = node.input.schema.field(node.window.time_column).name
    if node.window.time_column not in source.time and not source.bounded:
        raise UnsupportedError(
            f"{node.window.kind.value} needs a time column with a watermark, and {name} has none",
            hint=f"declare it on the table: WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND",
        )
    width = len(node.input.schema)
    keys = tuple((*key, width + 1) for key in source.keys)
    return Traits(source.updating, keys, (*source.time, width + 1, width + 2), source.bounded)


def _rank(node: Rank, source: Traits) -> Traits:
    keys: Keys = source.keys
    if node.kind is RankKind.ROW_NUMBER:
        if node.start == node.end:
            keys = (node.partition, *keys)
        elif node.with_rank:
            keys = ((*node.partition, len(node.input.schema)), *keys)
    return Traits(True, keys, bounded=source.bounded)
