"""EXPLAIN: the plan as deterministic text, a review surface for users and for the golden files in tests/plans.

One block per node: the operator with its expressions, then the output's columns, changelog mode and keys, then what the
operator has to remember. No ids, no addresses, no order that depends on hashing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

import pyarrow as pa

from forebay.engine.secrets import masked
from forebay.engine.types import from_arrow
from forebay.planner.changelog import covers, infer, remembers_output
from forebay.planner.expr import Binary, Call, Case, Cast, Column, Expr, InList, Like, Literal, Unary
from forebay.planner.lifetimes import time_of, timed
from forebay.planner.nodes import (
    Aggregate,
    AggregateCall,
    Filter,
    Join,
    Node,
    Project,
    Rank,
    Scan,
    Sink,
    SortKey,
    Traits,
    Union,
    Unnest,
    Values,
    WindowAggregate,
    WindowTable,
)
from forebay.planner.relation import CatalogView
from forebay.planner.stored import stored_side


def explain(plan: Node, catalog: CatalogView) -> str:
    """The plan's text, one block of lines per node, inputs indented under it."""
    traits = infer(plan, catalog)
    return "\n".join(_block(plan, traits, catalog, "", "")) + "\n"


def _block(node: Node, traits: dict[int, Traits], catalog: CatalogView, first: str, rest: str) -> Iterable[str]:
    below = rest + ("│  " if node.inputs else "   ")
    yield first + headline(node)
    yield below + columns_line(node, traits[id(node)])
    state = state_line(node, traits, catalog)
    if state:
        yield below + "state: " + state
    for i, part in enumerate(node.inputs):
        last = i == len(node.inputs) - 1
        yield from _block(part, traits, catalog, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


def columns_line(node: Node, traits: Traits) -> str:
    """Output columns with their SQL types, changelog mode, keys and time columns."""
    names = node.schema.names
    parts = [", ".join(f"{f.name} {from_arrow(f.type, f.nullable)}" for f in node.schema) or "no columns"]
    parts.append("retract" if traits.updating else "append")
    parts += [f"key ({', '.join(names[c] for c in key)})" if key else "at most one row" for key in traits.keys]
    if traits.time:
        parts.append("watermark " + ", ".join(names[c] for c in traits.time))
    if traits.bounded:
        parts.append("bounded")
    return " · ".join(parts)


def headline(node: Node) -> str:
    """The operator and its expressions over its input's column names."""
    names = [name for part in node.inputs for name in part.schema.names]
    match node:
        case Scan(_, table, _, options):
            return f"Scan {table}" + (f" with {_options(options)}" if options else "")
        case Values(_, rows):
            return f"Values {len(rows)} row{'' if len(rows) == 1 else 's'}"
        case Filter(_, _, predicate):
            return f"Filter {text(predicate, names)}"
        case Project(schema, _, exprs):
            return "Project " + ", ".join(_named(e, f.name, names) for e, f in zip(exprs, schema))
        case Union(_, parts):
            return f"Union of {len(parts)}"
        case Join():
            return _join(node)
        case Aggregate(schema, _, keys, calls):
            return "Aggregate" + _grouped(schema, keys, calls, names)
        case WindowAggregate(schema, _, keys, calls, end):
            return f"WindowAggregate closed by {names[end]}" + _grouped(schema, keys, calls, names)
        case Rank():
            return _rank(node, names)
        case WindowTable():
            return _window(node, names)
        case Unnest(_, _, columns, outer):
            return f"Unnest{' outer' if outer else ''} {', '.join(names[c] for c in columns)}"
        case Sink(_, _, table, options, key):
            by = f" by {_group_names(key, node)}" if key else ""
            return f"Sink {table}{by}" + (f" with {_options(options)}" if options else "")
    return type(node).__name__


def _side(name: str, node: Node, keys: Sequence[int], ttl: int | None, catalog: CatalogView) -> str:
    """What a join keeps of one side, and for how long by which time."""
    by = f" by {_group_names(keys, node)}" if keys else ""
    stored = stored_side(node, keys, catalog)
    life = "" if ttl is None else _life(stored.table if stored is not None else timed(node, catalog), ttl, catalog)
    if stored is None:
        return f"{name} rows{by}{life}"
    return f"table {stored.table.table}{by}{life}, shared by jobs"


def _life(kept: Node, ttl: int, catalog: CatalogView) -> str:
    """For how long rows live, by which time."""
    column = time_of(kept, catalog)
    return f" for {duration(ttl * 1000)} " + (
        "after they came" if column is None else f"of {kept.schema.names[column]}"
    )


def _group_life(node: Aggregate | Rank, catalog: CatalogView) -> str:
    """How long after its last update a group lives, by which time."""
    if not node.ttl:
        return ""
    kept = timed(node.input, catalog)
    column = time_of(kept, catalog)
    by = "" if column is None else f" by {kept.schema.names[column]}"
    return f" for {duration(node.ttl * 1000)} after its last update{by}"


def state_line(node: Node, traits: dict[int, Traits], catalog: CatalogView) -> str:
    """What the operator remembers; empty if nothing."""
    match node:
        case Sink(_, source, _, _, key) if (
            key and traits[id(source)].updating and not covers(traits[id(source)].keys, key)
        ):
            return f"rows by {_group_names(key, node)}, by which the input is not unique"
        case Join(_, left, right, _, left_keys, right_keys):
            sides = zip(("left", "right"), (left, right), (left_keys, right_keys), node.ttl)
            return ", ".join(_side(*side, catalog) for side in sides)
        case Aggregate(_, source, keys, calls):
            multisets = [c for c in calls if c.distinct or (c.name in ("min", "max") and traits[id(source)].updating)]
            extra = [f"values of {call_text(c, source.schema.names)}" for c in multisets]
            row = f"one row per {_group_names(keys, source)}" if keys else "one row"
            return ", ".join([row, *extra]) + _group_life(node, catalog)
        case WindowAggregate(_, source, keys):
            return f"one row per {_group_names(keys, source)} until the window closes"
        case Rank(_, source, _, partition, _, _, end):
            rows = (
                "all rows" if traits[id(source)].updating else f"the first {end} rows" if end > 1 else "the first row"
            )
            return (f"{rows} per {_group_names(partition, source)}" if partition else rows) + _group_life(node, catalog)
    return (
        "its output by row (volatile expression over rows that may be retracted)"
        if remembers_output(node, traits)
        else ""
    )


def _group_names(keys: Sequence[int], source: Node) -> str:
    return f"({', '.join(source.schema.names[k] for k in keys)})"


def _options(options: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in masked(dict(options)).items())


def _named(expr: Expr, name: str, names: Sequence[str]) -> str:
    shown = text(expr, names)
    return shown if shown == name else f"{shown} AS {name}"


def _join(node: Join) -> str:
    left, right = node.left.schema.names, node.right.schema.names
    equals = "IS NOT DISTINCT FROM" if node.null_equals_null else "="
    on = [f"{left[a]} {equals} {right[b]}" for a, b in zip(node.left_keys, node.right_keys)]
    parts = [f"Join {node.kind.value}", f"on {' AND '.join(on)}" if on else "of every pair"]
    if node.residual is not None:
        parts.append(f"where {text(node.residual, _sides(left, right))}")
    if node.null_aware:
        parts.append("null-aware")
    return " ".join(parts)


def _sides(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """Names of both sides; those that both have are told apart."""
    both = set(left) & set(right)
    named = (f"{side}.{n}" if n in both else n for side, names in (("left", left), ("right", right)) for n in names)
    return list(named)


def _grouped(schema: pa.Schema, keys: Sequence[int], calls: Sequence[AggregateCall], names: Sequence[str]) -> str:
    by = f" by {', '.join(names[k] for k in keys)}" if keys else ""
    shown = [f"{call_text(c, names)} AS {schema.field(len(keys) + i).name}" for i, c in enumerate(calls)]
    return by + (": " + ", ".join(shown) if shown else "")


def call_text(call: AggregateCall, names: Sequence[str]) -> str:
    """An aggregate call as SQL."""
    args = ", ".join([names[a] for a in call.args] + [repr(c) for c in call.constants]) or "*"
    order = f" ORDER BY {_order(call.order, names)}" if call.order else ""
    condition = f" FILTER (WHERE {names[call.filter]})" if call.filter is not None else ""
    return f"{call.name.upper()}({'DISTINCT ' if call.distinct else ''}{args}{order}){condition}"


def _order(order: Sequence[SortKey], names: Sequence[str]) -> str:
    def one(key: SortKey) -> str:
        nulls = "" if key.nulls_first == key.ascending else f" NULLS {'FIRST' if key.nulls_first else 'LAST'}"
        return f"{names[key.column]}{'' if key.ascending else ' DESC'}{nulls}"

    return ", ".join(map(one, order))


def _rank(node: Rank, names: Sequence[str]) -> str:
    which = f"{node.start}" if node.start == node.end else f"{node.start} to {node.end}"
    parts = [f"Rank {node.kind.value} {which}"]
    if node.partition:
        parts.append(f"per {', '.join(names[c] for c in node.partition)}")
    if node.order:
        parts.append(f"by {_order(node.order, names)}")
    return " ".join(parts) + (", with number" if node.with_rank else "")


def _window(node: WindowTable, names: Sequence[str]) -> str:
    window = node.window
    parts = [f"WindowTable {window.kind.value} of {duration(window.size)}"]
    if window.slide is not None:
        parts.append(f"every {duration(window.slide)}")
    if window.offset:
        parts.append(f"offset {duration(window.offset)}")
    parts.append(f"on {names[window.time_column]}")
    if window.partition:
        parts.append(f"per {', '.join(names[c] for c in window.partition)}")
    return " ".join(parts)


def duration(micros: int) -> str:
    """A length of time in the largest unit that divides it."""
    for unit, size in (
        ("d", 86_400_000_000),
        ("h", 3_600_000_000),
        ("min", 60_000_000),
        ("s", 1_000_000),
        ("ms", 1000),
    ):
        if micros % size == 0:
            return f"{micros // size} {unit}"
    return f"{micros} µs"


def text(expr: Expr, names: Sequence[str]) -> str:
    """An expression as SQL for people: casts under SQL's type names, constants without their types."""
    shown = _bare(expr, names)
    return shown[1:-1] if isinstance(expr, Binary) else shown


def _bare(expr: Expr, names: Sequence[str]) -> str:
    def sub(e: Expr) -> str:
        return _bare(e, names)

    match expr:
        case Column(index):
            return names[index]
        case Literal(value, arrow):
            return _constant(value, arrow)
        case Binary(op, left, right):
            return f"({sub(left)} {op} {sub(right)})"
        case Unary(op, arg):
            return f"{op} {sub(arg)}" if op == "NOT" else f"-{sub(arg)}" if op == "-" else f"{sub(arg)} {op}"
        case Cast(arg, arrow, safe):
            return f"{'TRY_' if safe else ''}CAST({text(arg, names)} AS {from_arrow(arrow)})"
        case Case(None, ((Unary("IS NOT NULL"), Call("get_field", (value, Literal(str(field))))),), None):
            return f"{sub(value)}.{field}"
        case Case(operand, branches, otherwise):
            head = f" {sub(operand)}" if operand is not None else ""
            body = "".join(f" WHEN {text(w, names)} THEN {text(t, names)}" for w, t in branches)
            return f"CASE{head}{body}{f' ELSE {text(otherwise, names)}' if otherwise is not None else ''} END"
        case InList(arg, items, negated):
            return f"{sub(arg)} {'NOT IN' if negated else 'IN'} ({', '.join(map(sub, items))})"
        case Like(op, arg, pattern, _, negated):
            return f"{sub(arg)} {'NOT ' if negated else ''}{op} {sub(pattern)}"
        case Call(name, (Literal(0),), True):
            return name.upper()  # the clock's functions take a marker for the number of rows
        case Call(name, args):
            return f"{name}({', '.join(text(a, names) for a in args)})"
    return type(expr).__name__


_EPOCH = dt.datetime(1970, 1, 1)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def _constant(value: object, arrow: pa.DataType) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if pa.types.is_date32(arrow) and isinstance(value, int):
        return f"DATE '{(_EPOCH + dt.timedelta(days=value)).date()}'"
    if pa.types.is_timestamp(arrow) and isinstance(value, int):
        at = _EPOCH + dt.timedelta(microseconds=value * 10**6 // _PER_SECOND[arrow.unit])
        return f"TIMESTAMP '{at}'"
    if pa.types.is_interval(arrow):
        return f"INTERVAL '{_interval(value)}'"
    return str(value)


def _interval(value: object) -> str:
    months, days, nanos = value  # type: ignore[misc]
    parts = [(months, "months"), (days, "days"), (nanos // 1000 / 10**6, "seconds")]  # type: ignore[has-type]
    return " ".join(f"{n:g} {unit}" for n, unit in parts if n) or "0 seconds"
