"""A logical plan as one SQL query for DataFusion: the batch answer of what a streaming job maintains.

Columns are named by position (`c0`, `c1`, ...) on every level, so nothing depends on names. Tests run it over the input so
far as the oracle of the law that a view's consolidated contents equal the batch answer; snapshot queries run it too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from forebay.engine.errors import InternalError, UnsupportedError
from forebay.planner.expr import Column, Expr
from forebay.planner.nodes import (
    Aggregate,
    AggregateCall,
    Filter,
    Join,
    JoinKind,
    Node,
    Project,
    Rank,
    Scan,
    Sink,
    SortKey,
    Union,
    Unnest,
    Values,
    WindowAggregate,
    WindowKind,
    WindowTable,
)
from forebay.planner.pending import Hinted, Over, Sort
from forebay.planner.render import constant, identifier, string, to_sql, type_name

TableName = Callable[[Scan], str]
"""The SQL text that stands for a scan's table, as it may follow FROM."""

_JOINS = {
    JoinKind.INNER: "JOIN",
    JoinKind.LEFT: "LEFT JOIN",
    JoinKind.RIGHT: "RIGHT JOIN",
    JoinKind.FULL: "FULL JOIN",
    JoinKind.LEFT_SEMI: "LEFT SEMI JOIN",
    JoinKind.LEFT_ANTI: "LEFT ANTI JOIN",
    JoinKind.RIGHT_SEMI: "RIGHT SEMI JOIN",
    JoinKind.RIGHT_ANTI: "RIGHT ANTI JOIN",
}
_WITHOUT_NULLS = frozenset(("first_value", "last_value"))
"""In Flink these give the first and last value that is not NULL."""
_MICROS = {"s": 1_000_000, "ms": 1_000, "us": 1}


def plan_to_sql(node: Node, table: TableName = lambda scan: identifier(scan.table)) -> str:
    """A query with the node's rows, its columns under the names of the node's schema.

    Raises:
        UnsupportedError: the node has no batch form.
    """
    renderer = _Renderer(table)
    exprs: Sequence[Expr] = [Column(i) for i in range(len(node.schema))]
    names = node.schema.names
    if isinstance(node, Project) and isinstance(node.input, Sort):
        exprs, node = node.exprs, node.input
    order = ""
    if isinstance(node, Sort):  # only the outermost ORDER BY orders the answer
        order = _ordering(node)
        node = node.input
    items = ", ".join(f"{to_sql(e, _names(node))} AS {identifier(name)}" for e, name in zip(exprs, names))
    return f"SELECT {items or '1'} FROM {renderer.relation(node)}{order}"


def _ordering(node: Sort) -> str:
    """ORDER BY, LIMIT and OFFSET."""
    order = f" ORDER BY {_order(node.order)}" if node.order else ""
    limit = f" LIMIT {node.limit}" if node.limit is not None else ""
    return f"{order}{limit}{f' OFFSET {node.offset}' if node.offset else ''}"


def _names(node: Node, prefix: str = "c") -> list[str]:
    return [f"{prefix}{i}" for i in range(len(node.schema))]


def _select(items: Sequence[str], rest: str) -> str:
    """A parenthesised query; without items it keeps the rows with a column that no one reads."""
    named = [f"{item} AS c{i}" for i, item in enumerate(items)]
    return f"(SELECT {', '.join(named) or '1 AS none'} {rest})"


class _Renderer:
    def __init__(self, table: TableName) -> None:
        self._table = table

    def relation(self, node: Node) -> str:
        """A parenthesised query whose columns are c0, c1, ..."""
        match node:
            case Scan():
                return _select([identifier(c) for c in node.columns], f"FROM {self._table(node)}")
            case Values():
                return self._values(node)
            case Filter(_, source, predicate):
                return _select(_names(node), f"FROM {self.relation(source)} WHERE {to_sql(predicate, _names(source))}")
            case Project(_, source, exprs):
                return _select([to_sql(e, _names(source)) for e in exprs], f"FROM {self.relation(source)}")
            case Union(_, parts):
                branches = (f"SELECT {', '.join(_names(node)) or '1 AS none'} FROM {self.relation(p)}" for p in parts)
                return f"({' UNION ALL '.join(branches)})"
            case Join():
                return self._join(node)
            case Aggregate() | WindowAggregate():
                return self._aggregate(node)
            case Rank():
                return self._rank(node)
            case Sort():
                return self._sort(node)
            case Over():
                return self._over(node)
            case Unnest():
                return self._unnest(node)
            case WindowTable():
                return self._window_table(node)
            case Sink(_, source) | Hinted(_, source):
                return self.relation(source)
        raise InternalError(f"{type(node).__name__} has no SQL form")

    def _values(self, node: Values) -> str:
        if not node.rows:
            items = [constant(None, f.type) for f in node.schema]
            return _select(items, "WHERE FALSE")
        rows = [[to_sql(e, []) for e in row] for row in node.rows]
        if len(rows) == 1 or not len(node.schema):
            return f"({' UNION ALL '.join(_select(row, '')[1:-1] for row in rows)})"
        items = [f"column{i + 1}" for i in range(len(node.schema))]
        listed = ", ".join(f"({', '.join(row)})" for row in rows)
        return _select(items, f"FROM (VALUES {listed})")  # in order, as a UNION ALL is not: of equal keys the last wins

    def _join(self, node: Join) -> str:
        sides = (_names(node.left, "l"), _names(node.right, "r"))
        left, right = (
            f"(SELECT {', '.join(f'c{i} AS {n}' for i, n in enumerate(names)) or '1 AS none'} FROM {self.relation(part)})"
            for names, part in zip(sides, node.inputs)
        )
        equals = "IS NOT DISTINCT FROM" if node.null_equals_null else "="
        on = [f"({sides[0][a]} {equals} {sides[1][b]})" for a, b in zip(node.left_keys, node.right_keys)]
        if node.residual is not None:
            on.append(to_sql(node.residual, sides[0] + sides[1]))
        condition = " AND ".join(on) or "TRUE"
        if node.kind is JoinKind.LEFT_MARK:
            branches = [
                f"SELECT {', '.join([*sides[0], mark])} FROM {left} AS l LEFT {word} JOIN {right} AS r ON {condition}"
                for mark, word in (("TRUE AS mark", "SEMI"), ("FALSE AS mark", "ANTI"))
            ]
            return _select([*sides[0], "mark"], f"FROM ({' UNION ALL '.join(branches)})")
        if node.null_aware:
            key = sides[1][node.right_keys[0]]
            extra = f" WHERE {to_sql(node.residual, sides[0] + sides[1])}" if node.residual is not None else ""
            inner = f"SELECT {key} FROM {right} AS r{extra}"
            return _select(sides[0], f"FROM {left} AS l WHERE {sides[0][node.left_keys[0]]} NOT IN ({inner})")
        columns = sides[0] + sides[1]
        if node.kind in (JoinKind.LEFT_SEMI, JoinKind.LEFT_ANTI):
            columns = sides[0]
        elif node.kind in (JoinKind.RIGHT_SEMI, JoinKind.RIGHT_ANTI):
            columns = sides[1]
        return _select(columns, f"FROM {left} AS l {_JOINS[node.kind]} {right} AS r ON {condition}")

    def _aggregate(self, node: Aggregate | WindowAggregate) -> str:
        keys = [f"c{k}" for k in node.keys]
        items = [*keys, *map(_call, node.calls)]
        group = f" GROUP BY {', '.join(keys)}" if keys else ""
        return _select(items, f"FROM {self.relation(node.input)}{group}")

    def _rank(self, node: Rank) -> str:
        over = _over_clause(node.partition, node.order)
        ranked = f"(SELECT *, arrow_cast({node.kind.value}() {over}, 'Int64') AS rank FROM {self.relation(node.input)})"
        columns = [*_names(node.input), *(["rank"] if node.with_rank else [])]
        return _select(columns, f"FROM {ranked} WHERE rank BETWEEN {node.start} AND {node.end}")

    def _sort(self, node: Sort) -> str:
        return _select(_names(node), f"FROM {self.relation(node.input)}{_ordering(node)}")

    def _over(self, node: Over) -> str:
        names = _names(node.input)
        calls = []
        for call in node.calls:
            units, start, end = call.frame
            frame = f" {units} BETWEEN {start} AND {end}" if call.order or units == "ROWS" else ""
            args = ", ".join(to_sql(a, names) for a in call.args) or ("*" if call.name == "count" else "")
            calls.append(f"{identifier(call.name)}({args}) {_over_clause(call.partition, call.order, frame)}")
        return _select([*names, *calls], f"FROM {self.relation(node.input)}")

    def _unnest(self, node: Unnest) -> str:
        items = [f"unnest(c{i})" if i in node.columns else f"c{i}" for i in range(len(node.schema))]
        where = "" if node.outer else " WHERE " + " AND ".join(f"c{i} IS NOT NULL" for i in node.columns)
        return _select(items, f"FROM {self.relation(node.input)}{where}")

    def _window_table(self, node: WindowTable) -> str:
        window, names = node.window, _names(node.input)
        time = node.input.schema.field(window.time_column).type
        unit = _MICROS.get(time.unit)
        if unit is None:
            raise UnsupportedError(f"{window.kind.value} over {time} has no batch form")
        if window.kind is WindowKind.SESSION:
            return self._sessions(node, unit)
        value = f"(arrow_cast(c{window.time_column}, 'Int64') * {unit})"
        step = window.slide or window.size
        floor = _floor(value, step if window.kind is WindowKind.HOP else window.size, window.offset)
        per_row = 1 if window.kind is WindowKind.TUMBLE else -(-window.size // step)
        inner = _select(
            [*names, value, floor, f"unnest(generate_series(0, {per_row - 1}))"], f"FROM {self.relation(node.input)}"
        )
        at, floor, k = (f"c{len(names) + i}" for i in range(3))
        start, end = {
            WindowKind.TUMBLE: (floor, f"({floor} + {window.size})"),
            WindowKind.HOP: (f"({floor} - {k} * {step})", f"({floor} - {k} * {step} + {window.size})"),
            WindowKind.CUMULATE: (floor, f"({floor} + ({k} + 1) * {step})"),
        }[window.kind]
        bounds = (start, end, f"({end} - 1000)")
        targets = [f.type for f in list(node.schema)[len(names) :]]
        casts = [_timestamp(b, t) for b, t in zip(bounds, targets)]
        return _select([*names, *casts], f"FROM {inner} WHERE {end} > {at}")

    def _sessions(self, node: WindowTable, unit: int) -> str:
        """Gaps and islands: a row more than the gap after the one before starts a session."""
        window, names = node.window, _names(node.input)
        width, by = len(names), "".join(f"c{p}, " for p in window.partition).rstrip(", ")
        part = f"PARTITION BY {by} " if by else ""
        at = f"(arrow_cast(c{window.time_column}, 'Int64') * {unit})"
        timed = _select([*names, at], f"FROM {self.relation(node.input)} WHERE c{window.time_column} IS NOT NULL")
        before = f"lag(c{width}) OVER ({part}ORDER BY c{width})"
        opens = f"CASE WHEN c{width} - {before} <= {window.size} THEN 0 ELSE 1 END"
        marked = _select([*names, f"c{width}", opens], f"FROM {timed}")
        frame = "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
        number = f"sum(c{width + 1}) OVER ({part}ORDER BY c{width} {frame})"
        numbered = _select([*names, f"c{width}", number], f"FROM {marked}")
        scope = f"OVER (PARTITION BY {by + ', ' if by else ''}c{width + 1})"
        start, end = f"min(c{width}) {scope}", f"(max(c{width}) {scope} + {window.size})"
        targets = [f.type for f in list(node.schema)[width:]]
        casts = [_timestamp(b, t) for b, t in zip((start, end, f"({end} - 1000)"), targets)]
        return _select([*names, *casts], f"FROM {numbered}")


def _floor(value: str, size: int, offset: int) -> str:
    """The greatest multiple of `size` plus `offset` that is not above the value."""
    return f"({value} - ((({value} - {offset}) % {size}) + {size}) % {size})"


def _timestamp(micros: str, target: pa.DataType) -> str:
    return f"arrow_cast({micros} / {_MICROS[target.unit]}, {string(type_name(target))})"


def _order(keys: Sequence[SortKey]) -> str:
    return ", ".join(
        f"c{k.column} {'ASC' if k.ascending else 'DESC'} NULLS {'FIRST' if k.nulls_first else 'LAST'}" for k in keys
    )


def _over_clause(partition: Sequence[int], order: Sequence[SortKey], frame: str = "") -> str:
    by = f"PARTITION BY {', '.join(f'c{i}' for i in partition)} " if partition else ""
    return f"OVER ({by}{'ORDER BY ' + _order(order) if order else ''}{frame})"


def _call(call: AggregateCall) -> str:
    args = ", ".join([f"c{i}" for i in call.args] + [_plain(c) for c in call.constants]) or "*"
    distinct = "DISTINCT " if call.distinct else ""
    order = f" ORDER BY {_order(call.order)}" if call.order else ""
    condition = f" FILTER (WHERE c{call.filter})" if call.filter is not None else ""
    nulls = " IGNORE NULLS" if call.name in _WITHOUT_NULLS else ""
    return f"{identifier(call.name)}({distinct}{args}{order}){nulls}{condition}"


def _plain(value: object) -> str:
    return string(value) if isinstance(value, str) else "NULL" if value is None else str(value)
