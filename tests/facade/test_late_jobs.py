"""A job that comes late sees what it would have seen had it come first, after a restart too."""

from __future__ import annotations

from pathlib import Path

import forebay

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
