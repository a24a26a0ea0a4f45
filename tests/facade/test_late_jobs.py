"""A job that comes late sees what it would have seen had it come first, after a restart too."""

from __future__ import annotations

from pathlib import Path

import forebay
from forebay.connection import Connection

TABLES = """
CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'log', 'topic' = 'numbers', 'format' = 'json');
CREATE MATERIALIZED VIEW first AS SELECT COUNT(*) AS n, SUM(n) AS total FROM numbers;
INSERT INTO numbers VALUES (1), (2), (3);
"""


def test_a_job_made_after_a_restart_reads_from_the_start(tmp_path: Path) -> None:
    with forebay.connect(tmp_path) as con:
        con.execute(TABLES)
        assert con.warehouse.driver.wait(lambda: con.sql("SELECT n FROM first").fetchall() == [(3,)], 30)
    with forebay.connect(tmp_path) as con:
        con.execute("CREATE MATERIALIZED VIEW second AS SELECT COUNT(*) AS n, SUM(n) AS total FROM numbers")
        assert con.warehouse.driver.wait(lambda: con.sql("SELECT * FROM second").fetchall() == [(3, 6)], 30)
        con.execute("INSERT INTO numbers VALUES (10)")
        for view in ("first", "second"):
            shown = f"SELECT * FROM {view}"
            assert con.warehouse.driver.wait(lambda s=shown: con.sql(s).fetchall() == [(4, 16)], 30)


def test_a_job_that_has_caught_up_goes_on_from_there_after_a_restart(tmp_path: Path) -> None:
    """The scan of its own that it began with is gone by then."""
    with forebay.connect(tmp_path) as con:
        con.execute(TABLES)
        driver = con.warehouse.driver
        assert driver.wait(lambda: con.sql("SELECT n FROM first").fetchall() == [(3,)], 30)
        con.execute("CREATE MATERIALIZED VIEW second AS SELECT COUNT(*) AS n, SUM(n) AS total FROM numbers")
        assert driver.wait(lambda: con.sql("SELECT * FROM second").fetchall() == [(3, 6)], 30)
        assert driver.wait(lambda: sum(node.scan is not None for node in driver.flow.order) == 1, 30)
    with forebay.connect(tmp_path) as con:
        con.execute("INSERT INTO numbers VALUES (10)")
        driver = con.warehouse.driver
        assert driver.wait(lambda: con.sql("SELECT * FROM first").fetchall() == [(4, 16)], 30)
        assert driver.wait(lambda: con.jobs["second"].metrics()["lag"] == 0, 30)
        assert con.sql("SELECT * FROM second").fetchall() == [(4, 16)]


def test_a_view_that_no_checkpoint_knows_is_built_from_the_restored_tables(tmp_path: Path) -> None:
    tables = """
    CREATE TABLE t (k INT, v INT, PRIMARY KEY (k) NOT ENFORCED);
    INSERT INTO t VALUES (1, 10), (2, 20);
    """
    with forebay.connect(tmp_path) as con:
        con.execute(tables)
    con = Connection(tmp_path, resume=False)  # never closed properly: as if killed
    con.execute("CREATE MATERIALIZED VIEW s AS SELECT SUM(v) AS total FROM t")
    con.execute("CREATE MATERIALIZED VIEW s2 AS SELECT total * 2 AS twice FROM s")
    con.execute("INSERT INTO t VALUES (3, 30), (2, 21)")
    con.warehouse.close(final_checkpoint=False)
    with forebay.connect(tmp_path) as con:
        assert con.sql("SELECT total, twice FROM s, s2").fetchall() == [(61, 122)]
        con.execute("DELETE FROM t WHERE k = 1")
        assert con.sql("SELECT total, twice FROM s, s2").fetchall() == [(51, 102)]
