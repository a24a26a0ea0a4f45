"""The connection as a user meets it: statements, results, look-ups, streams, functions, errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import forebay
from forebay.connection import Connection
from forebay.engine.errors import CatalogError, DataError, ForebayError, OptionError, SqlError, UnsupportedError

SETUP = """
CREATE TABLE orders (id INT, shop STRING, amount DOUBLE, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE refunds (id INT, order_id INT, amount DOUBLE, PRIMARY KEY (id) NOT ENFORCED);
CREATE MATERIALIZED VIEW wide AS
  SELECT o.id, o.shop, o.amount, r.amount AS refunded FROM orders o LEFT JOIN refunds r ON o.id = r.order_id;
CREATE MATERIALIZED VIEW shops AS
  SELECT shop, COUNT(*) AS n, SUM(amount) AS total, SUM(refunded) AS refunded FROM wide GROUP BY shop;
INSERT INTO orders VALUES (1, 'a', 10), (2, 'b', 20), (3, 'a', 5);
INSERT INTO refunds VALUES (1, 1, 4);
"""


@pytest.fixture
def con() -> Iterator[Connection]:
    with forebay.connect() as connection:
        yield connection


def rows(con: Connection, sql: str) -> list[tuple[object, ...]]:
    return con.sql(sql).fetchall()


def test_views_follow_their_tables(con: Connection) -> None:
    con.execute(SETUP)
    assert rows(con, "SELECT * FROM shops ORDER BY shop") == [("a", 2, 15.0, 4.0), ("b", 1, 20.0, None)]
    assert con.execute("UPDATE orders SET shop = 'b' WHERE id = 1").rowcount == 1
    assert rows(con, "SELECT * FROM shops ORDER BY shop") == [("a", 1, 5.0, None), ("b", 2, 30.0, 4.0)]
    con.execute("INSERT INTO orders VALUES (2, 'c', 1)")  # an upsert: the key is taken
    assert con.execute("DELETE FROM refunds WHERE amount > 1").rowcount == 1
    assert rows(con, "SELECT * FROM shops ORDER BY shop") == [
        ("a", 1, 5.0, None),
        ("b", 1, 10.0, None),
        ("c", 1, 1.0, None),
    ]


def test_look_up_by_key(con: Connection) -> None:
    con.execute(SETUP)
    assert con.lookup("shops", "b") == {"shop": "b", "n": 1, "total": 20.0, "refunded": None}
    assert con.lookup("orders", {"id": 3}) == {"id": 3, "shop": "a", "amount": 5.0}
    assert con.lookup("orders", (4,)) is None
    with pytest.raises(CatalogError, match="no key"):
        con.lookup("wide", 1)
    with pytest.raises(CatalogError, match="the key of orders is"):
        con.lookup("orders", {"shop": "a"})


def test_snapshot_queries_may_do_what_streaming_cannot(con: Connection) -> None:
    con.execute(SETUP)
    ranked = (
        "SELECT id, ROW_NUMBER() OVER (ORDER BY amount DESC) AS place FROM orders ORDER BY place DESC LIMIT 2 OFFSET 1"
    )
    assert rows(con, ranked) == [(1, 2), (2, 1)]
    assert rows(con, "SELECT COUNT(*) FROM orders") == [(3,)]


def test_result_as_arrow_pandas_polars(con: Connection) -> None:
    con.execute(SETUP)
    result = con.sql("SELECT id, amount FROM orders ORDER BY id")
    assert result.columns == ["id", "amount"]
    assert result.arrow().schema.types == [pa.int32(), pa.float64()]
    assert list(result.df()["id"]) == [1, 2, 3]
    assert result.pl().shape == (3, 2)
    assert result.fetchone() == (1, 10.0)
    assert result.fetchall() == [(2, 20.0), (3, 5.0)]
    with pytest.raises(ForebayError, match="no rows"):
        con.execute("SET 'execution.latency' = '10 ms'").arrow()


def test_stream_of_changes(con: Connection) -> None:
    con.execute(SETUP)
    with con.stream("SELECT shop, total FROM shops WHERE n > 1") as changes:
        assert changes.fetch(0.3) == [("+I", ("a", 15.0))]
        con.execute("INSERT INTO orders VALUES (4, 'b', 1)")
        assert changes.fetch(0.3) == [("+I", ("b", 21.0))]
        con.execute("DELETE FROM orders WHERE id = 3")
        assert changes.fetch(0.3) == [("-D", ("a", 15.0))]


def test_registered_objects_are_tables(con: Connection) -> None:
    con.execute(SETUP)
    con.register("cities", pd.DataFrame({"shop": ["a", "b"], "city": ["Oslo", "Rome"]}))
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT city, total FROM shops JOIN cities ON shops.shop = cities.shop")
    assert con.wait("v", timeout=30)
    assert rows(con, "SELECT * FROM v ORDER BY city") == [("Oslo", 15.0), ("Rome", 20.0)]
    assert rows(con, "SELECT city FROM cities ORDER BY city DESC LIMIT 1") == [("Rome",)]


def test_user_functions(con: Connection) -> None:
    con.execute(SETUP)

    @forebay.udf(["STRING"], "STRING")
    def shout(words: pa.Array) -> pa.Array:
        return pc.utf8_upper(words)

    con.create_function(shout)
    con.execute("CREATE MATERIALIZED VIEW loud AS SELECT shout(shop) AS shop, total FROM shops")
    assert rows(con, "SELECT shop FROM loud ORDER BY shop") == [("A",), ("B",)]
    assert rows(con, "SELECT Shout('x')") == [("X",)]


def test_a_function_that_raises_fails_its_job_alone(con: Connection) -> None:
    con.execute(SETUP)

    @forebay.udf(["DOUBLE"], "DOUBLE")
    def no_fives(values: pa.Array) -> pa.Array:
        if pc.any(pc.equal(values, 55.0)).as_py():
            raise ValueError("a fifty-five")
        return values

    con.create_function(no_fives)
    con.execute("CREATE MATERIALIZED VIEW picky AS SELECT id, no_fives(amount) AS amount FROM orders")
    result = con.execute("INSERT INTO orders VALUES (5, 'a', 55)")
    assert "picky" in result.warnings[0] and "fifty-five" in result.warnings[0]
    assert con.jobs["picky"].status in ("RESTARTING", "FAILED")
    assert con.jobs["picky"].error is not None
    assert con.lookup("shops", "a") == {"shop": "a", "n": 3, "total": 70.0, "refunded": 4.0}


def test_insert_from_a_connector_is_a_job(con: Connection, tmp_path: Path) -> None:
    con.execute(
        f"""
        CREATE TABLE numbers (n BIGINT, twice AS n * 2) WITH (
          'connector' = 'datagen', 'number-of-rows' = '1000', 'fields.n.kind' = 'sequence',
          'fields.n.start' = '1', 'fields.n.end' = '1000');
        CREATE TABLE files (n BIGINT, twice BIGINT) WITH (
          'connector' = 'filesystem', 'path' = '{tmp_path}/out', 'format' = 'parquet');
        CREATE TABLE kept (n BIGINT, twice BIGINT, PRIMARY KEY (n) NOT ENFORCED);
        EXECUTE STATEMENT SET BEGIN
          INSERT INTO files SELECT n, twice FROM numbers;
          INSERT INTO kept SELECT MOD(n, 10), MAX(twice) FROM numbers GROUP BY MOD(n, 10);
        END;
        """
    )
    assert con.wait(timeout=60)
    assert [job.status for job in con.jobs.values()] == ["FINISHED"]
    assert rows(con, "SELECT COUNT(*), SUM(twice) FROM files") == [(1000, 1001000)]
    assert rows(con, "SELECT * FROM kept WHERE n < 2 ORDER BY n") == [(0, 2000), (1, 1982)]


def test_two_readers_of_a_table_read_their_own_columns(con: Connection) -> None:
    con.execute(
        """
        CREATE TABLE gen (a BIGINT, b BIGINT, r ROW<x BIGINT, y STRING>) WITH ('connector' = 'datagen',
          'number-of-rows' = '100', 'fields.a.kind' = 'sequence', 'fields.a.start' = '1', 'fields.a.end' = '100',
          'fields.b.kind' = 'sequence', 'fields.b.start' = '1', 'fields.b.end' = '100');
        CREATE MATERIALIZED VIEW v AS
          SELECT COUNT(*) AS pairs, COUNT(l.b) AS b, COUNT(q.y) AS y
          FROM gen l JOIN (SELECT a, r.y AS y FROM gen WHERE r.x IS NOT NULL) q ON l.a = q.a;
        """
    )
    assert con.wait("v", timeout=30)
    assert rows(con, "SELECT * FROM v") == [(100, 100, 100)]


@pytest.mark.parametrize(
    ("sql", "kind", "message"),
    [
        ("SELECT sho FROM orders", SqlError, "did you mean orders.shop"),
        ("SELECT * FROM order", SqlError, "order"),
        ("SELECT * FROM ordrs", CatalogError, "orders"),
        ("SELEC 1", SqlError, "did you mean SELECT"),
        ("CREATE TABLE x (a INT) WITH ('connector' = 'kafak')", OptionError, "did you mean 'kafka'"),
        ("CREATE TABLE orders (a INT)", CatalogError, "already exists"),
        ("DROP TABLE orders", CatalogError, "used by"),
        ("INSERT INTO orders VALUES (1, 2)", SqlError, "3 columns"),
        ("INSERT INTO orders SELECT 'x', 'y', 1.0", SqlError, "column id of orders is INT"),
        ("SET 'execution.latncy' = '1 s'", OptionError, "execution.latency"),
        ("STOP JOB nothing", CatalogError, "no job"),
        ("UPDATE orders SET nothing = 1", CatalogError, "no column"),
    ],
)
def test_errors_name_the_cause_and_the_fix(con: Connection, sql: str, kind: type[ForebayError], message: str) -> None:
    con.execute(SETUP)
    with pytest.raises(kind) as caught:
        con.execute(sql)
    assert message in str(caught.value)


def test_a_query_over_an_input_without_end_is_refused(con: Connection) -> None:
    con.execute("CREATE TABLE forever (n BIGINT) WITH ('connector' = 'datagen')")
    with pytest.raises(UnsupportedError, match="never ends"):
        con.sql("SELECT COUNT(*) FROM forever")


def test_a_closed_connection_says_so() -> None:
    con = forebay.connect()
    con.close()
    con.close()
    with pytest.raises(ForebayError, match="closed"):
        con.execute("SELECT 1")


def test_a_failing_expression_is_a_data_error(con: Connection) -> None:
    con.execute("CREATE TABLE words (w STRING)")
    con.execute("CREATE MATERIALIZED VIEW n AS SELECT CAST(w AS INT) AS n FROM words")
    con.execute("INSERT INTO words VALUES ('x')")
    error = con.jobs["n"].error
    assert isinstance(error, DataError)


def test_streams_end_with_their_query(con: Connection) -> None:
    con.register("few", pa.table({"n": [1, 2]}))
    assert sorted(con.stream("SELECT n FROM few WHERE n > 1")) == [("+I", (2,))]
    assert sorted(con.stream("SELECT n FROM (VALUES (1), (2)) AS t(n)")) == [("+I", (1,)), ("+I", (2,))]

    @forebay.udf(["BIGINT"], "BIGINT", name="no_luck")
    def no_luck(numbers: pa.Array) -> pa.Array:
        raise ValueError("no luck")

    con.create_function(no_luck)
    con.warehouse.driver.options = dataclasses.replace(con.warehouse.driver.options, restarts=0)
    with pytest.raises(Exception, match="no luck"):
        list(con.stream("SELECT no_luck(n) FROM few"))
    stream = con.stream("SELECT n FROM few")
    stream.close()
    assert list(stream) == []
    assert set(con.warehouse.driver.jobs) == set(con.jobs)


def test_batch_mode_inserts_what_is_there_now(con: Connection, tmp_path: Path) -> None:
    con.execute(SETUP)
    con.execute(
        f"""
        CREATE TABLE files (shop STRING, total DOUBLE, place BIGINT) WITH (
          'connector' = 'filesystem', 'path' = '{tmp_path}/out', 'format' = 'parquet');
        CREATE TABLE best (shop STRING, total DOUBLE, PRIMARY KEY (shop) NOT ENFORCED);
        """
    )
    ranked = "SELECT shop, total, ROW_NUMBER() OVER (ORDER BY total DESC) AS place FROM shops"
    with pytest.raises(UnsupportedError):
        con.execute(f"INSERT INTO files {ranked}")
    con.execute("SET 'execution.runtime-mode' = 'batch'")
    assert con.execute(f"INSERT INTO files {ranked}").rowcount == 2
    assert con.execute("INSERT INTO best SELECT shop, total FROM files ORDER BY place LIMIT 1").rowcount == 1
    assert rows(con, "SELECT * FROM best") == [("b", 20.0)]
    assert list(con.jobs) == ["wide", "shops"]
    with pytest.raises(OptionError, match="streaming, batch"):
        con.execute("SET 'execution.runtime-mode' = 'btch'")


def test_jobs_resume_with_the_functions_that_they_use(tmp_path: Path) -> None:
    @forebay.udf(["INT"], "INT", name="doubled")
    def doubled(numbers: pa.Array) -> pa.Array:
        return pc.multiply(numbers, 2)

    with forebay.connect(tmp_path, functions=[doubled]) as con:
        con.execute("CREATE TABLE t (n INT); CREATE MATERIALIZED VIEW v AS SELECT doubled(n) AS n FROM t")
        con.execute("INSERT INTO t VALUES (1), (2)")
    with forebay.connect(tmp_path, functions=[doubled]) as con:
        assert sorted(con.sql("SELECT n FROM v").fetchall()) == [(2,), (4,)]
        with pytest.raises(CatalogError, match="decorated"):
            forebay.connect(functions=[print])


def test_warehouses_in_memory_share_no_topics() -> None:
    table = "CREATE TABLE numbers (n INT) WITH ('connector' = 'log', 'topic' = 'numbers', 'format' = 'json')"
    counted = "SELECT COUNT(*) FROM numbers /*+ OPTIONS('scan.bounded.mode' = 'latest-offset') */"
    with forebay.connect() as first, forebay.connect() as second:
        for con in (first, second):
            con.execute(table)
            con.execute("INSERT INTO numbers VALUES (1), (2)")
            assert rows(con, counted) == [(2,)]
