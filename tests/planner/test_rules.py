"""Streaming shapes are recognised through what lies between their parts, and what has no shape is refused by name."""

from __future__ import annotations

import pyarrow as pa
import pytest

from forebay.engine.errors import SqlError, UnsupportedError
from forebay.planner.nodes import Aggregate, Filter, Join, Node, Project, Rank, RankKind, WindowAggregate, WindowTable
from tests.planner.relations import bind


def find(node: Node, kind: type[Node]) -> Node | None:
    if isinstance(node, kind):
        return node
    return next((found for part in node.inputs if (found := find(part, kind)) is not None), None)


def ranked(condition: str, function: str = "ROW_NUMBER()", items: str = "a, d") -> Rank:
    plan = bind(
        f"SELECT {items} FROM (SELECT a, d, b * 2 AS b2, {function} OVER (PARTITION BY a, b + 1 ORDER BY d DESC, ts) AS n FROM t)"
        f" AS q WHERE {condition}"
    )
    rank = find(plan, Rank)
    assert isinstance(rank, Rank)
    return rank


@pytest.mark.parametrize(
    ("condition", "start", "end"),
    [
        ("n = 1", 1, 1),
        ("n <= 3", 1, 3),
        ("n < 3", 1, 2),
        ("5 > n", 1, 4),
        ("n BETWEEN 2 AND 4", 2, 4),
        ("n > 1 AND n <= 2 + 1", 2, 3),
        ("n <= 3 AND n = 2", 2, 2),
    ],
)
def test_bounds_of_the_rank(condition: str, start: int, end: int) -> None:
    rank = ranked(condition)
    assert (rank.start, rank.end) == (start, end)


def test_keys_of_the_rank_are_columns() -> None:
    rank = ranked("n <= 3", "DENSE_RANK()")
    assert rank.kind is RankKind.DENSE_RANK
    names = rank.input.schema.names
    assert names[rank.partition[0]] == "a"
    assert isinstance(rank.input, Project)
    assert [(names[k.column], k.ascending, k.nulls_first) for k in rank.order] == [
        ("d", False, False),
        ("ts", True, True),
    ]


def test_number_is_computed_only_if_read() -> None:
    assert not ranked("n <= 3").with_rank
    assert ranked("n <= 3", items="a, n").with_rank
    assert ranked("n <= 3", items="a, n + 1 AS m").with_rank


def test_rank_is_bigint() -> None:
    assert bind("SELECT n FROM (SELECT RANK() OVER (ORDER BY d) AS n FROM t) AS q WHERE n < 9").schema.types == [
        pa.int64()
    ]


def test_other_conditions_stay_above_the_rank() -> None:
    plan = bind(
        "SELECT a FROM (SELECT a, d, ROW_NUMBER() OVER (PARTITION BY b ORDER BY ts) AS n FROM t) AS q WHERE n = 1 AND d > 5"
    )
    above = find(plan, Filter)
    assert isinstance(above, Filter)
    assert isinstance(above.input, Rank)


def test_order_by_limit_offset_is_a_rank_of_all() -> None:
    rank = find(bind("SELECT a FROM t ORDER BY d DESC, a LIMIT 10 OFFSET 5"), Rank)
    assert isinstance(rank, Rank)
    assert (rank.partition, rank.start, rank.end, rank.with_rank) == ((), 6, 15, False)


def test_limit_alone_keeps_any_rows() -> None:
    rank = find(bind("SELECT a FROM t LIMIT 2"), Rank)
    assert isinstance(rank, Rank)
    assert rank.order == ()


def test_order_without_limit_is_dropped() -> None:
    assert bind("SELECT a, b FROM t ORDER BY b") == bind("SELECT a, b FROM t")


WINDOWS = {
    "TUMBLE": "TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' MINUTE))",
    "HOP": "TABLE(HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '5' MINUTE, INTERVAL '15' MINUTE))",
    "CUMULATE": "TABLE(CUMULATE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR, INTERVAL '1' DAY))",
    "SESSION": "TABLE(SESSION(TABLE t PARTITION BY a, DESCRIPTOR(ts), INTERVAL '5' MINUTE))",
}


@pytest.mark.parametrize("name", WINDOWS)
def test_group_by_window_bounds(name: str) -> None:
    plan = bind(
        f"SELECT window_start, window_end, a, MAX(d) AS m FROM {WINDOWS[name]} GROUP BY window_start, window_end, a"
    )
    assert isinstance(plan, WindowAggregate)
    assert plan.input.schema.field(plan.window_end).name == "window_end"
    table = find(plan, WindowTable)
    assert isinstance(table, WindowTable)
    assert table.window.kind.value == name
    assert table.input.schema.field(table.window.time_column).name == "ts"
    minutes = {"TUMBLE": (10, None), "HOP": (15, 5), "CUMULATE": (1440, 60), "SESSION": (5, None)}[name]
    slide = None if minutes[1] is None else minutes[1] * 60_000_000
    assert (table.window.size, table.window.slide) == (minutes[0] * 60_000_000, slide)


def test_a_window_table_reads_only_the_columns_in_use() -> None:
    table = find(bind(f"SELECT window_time, b FROM {WINDOWS['TUMBLE']} WHERE d > 1"), WindowTable)
    assert isinstance(table, WindowTable)
    assert set(table.input.schema.names) == {"b", "d", "ts"}
    assert isinstance(table.input, Filter), "the condition runs before rows are assigned to windows"


def test_a_key_that_tells_the_windows_end_is_enough() -> None:
    tumble = bind(f"SELECT window_start, COUNT(*) AS n FROM {WINDOWS['TUMBLE']} GROUP BY window_start")
    assert isinstance(tumble, WindowAggregate)
    assert tumble.input.schema.field(tumble.window_end).name == "window_end"
    cumulate = bind(f"SELECT window_start, COUNT(*) AS n FROM {WINDOWS['CUMULATE']} GROUP BY window_start")
    assert isinstance(cumulate, Aggregate)
    by_row = bind(f"SELECT a, COUNT(*) AS n FROM {WINDOWS['TUMBLE']} GROUP BY a")
    assert isinstance(by_row, Aggregate)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("TUMBLE(TABLE t, DESCRIPTOR(tss), INTERVAL '1' DAY)", "has no column tss"),
        ("TUMBLE(TABLE t, DESCRIPTOR(a), INTERVAL '1' DAY)", "is int64, not TIMESTAMP"),
        ("TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MONTH)", "cannot be measured in MONTH"),
        ("TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '0' DAY)", "must be positive"),
        ("HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '1' DAY)", "takes two intervals"),
        ("HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '7' HOUR, INTERVAL '1' DAY)", "multiple of its slide"),
        ("TUMBLE(TABLE nosuch, DESCRIPTOR(ts), INTERVAL '1' DAY)", "table nosuch does not exist"),
    ],
)
def test_wrong_windows_are_told(call: str, message: str) -> None:
    with pytest.raises(SqlError) as caught:
        bind(f"SELECT *\nFROM TABLE({call})")
    assert message in caught.value.message
    assert caught.value.line == 2


def test_value_subqueries_of_one_row_are_joins() -> None:
    for subquery in (
        "SELECT MAX(b) FROM u",
        "SELECT b FROM u ORDER BY b LIMIT 1",
        "SELECT LISTAGG(s) FROM u WHERE u.a = t.a",
    ):
        assert find(bind(f"SELECT a, ({subquery}) AS x FROM t"), Join) is not None


def test_any_and_all_join_by_key() -> None:
    assert bind("SELECT a FROM t WHERE b = ANY (SELECT b FROM u)") == bind(
        "SELECT a FROM t WHERE b IN (SELECT b FROM u)"
    )
    assert bind("SELECT a FROM t WHERE b <> ALL (SELECT b FROM u)") == bind(
        "SELECT a FROM t WHERE b NOT IN (SELECT b FROM u)"
    )


def test_tables_cannot_be_sampled_or_pivoted() -> None:
    with pytest.raises(UnsupportedError, match="TABLESAMPLE is not supported"):
        bind("SELECT a FROM t TABLESAMPLE (10 PERCENT)")


@pytest.mark.parametrize(
    ("sql", "message", "hint", "line", "column"),
    [
        (
            "SELECT a,\n SUM(b) OVER (PARTITION BY a ORDER BY ts) AS x FROM t",
            "SUM(...) OVER is not supported",
            "GROUP BY",
            2,
            9,
        ),
        (
            "SELECT a, ROW_NUMBER() OVER (ORDER BY ts) AS n FROM t",
            "needs an upper bound",
            "WHERE n <= 10",
            1,
            11,
        ),
        (
            "SELECT * FROM (SELECT a, ROW_NUMBER() OVER (PARTITION BY b) AS n FROM t) AS q WHERE n = 1",
            "needs an ORDER BY",
            "which rows come first",
            1,
            26,
        ),
        ("SELECT a FROM t OFFSET 3", "OFFSET without LIMIT", "LIMIT", 1, 17),
        ("SELECT a, (SELECT b FROM u) AS x FROM t", "may give many rows", "LIMIT 1", 1, 19),
        ("SELECT DISTINCT ON (a) a, b FROM t", "DISTINCT ON", "ROW_NUMBER", 1, 21),
        (
            "SELECT t.a FROM t JOIN u FOR SYSTEM_TIME AS OF t.ts ON t.a = u.a",
            "FOR SYSTEM_TIME AS OF",
            "join the table",
            1,
            24,
        ),
    ],
)
def test_what_streaming_cannot_run_is_refused_by_name(
    sql: str, message: str, hint: str, line: int, column: int
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        bind(sql)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert (caught.value.line, caught.value.column) == (line, column)
