"""ALTER MATERIALIZED VIEW: the new result comes from state that lives on, readers follow, a restart finds it again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import forebay
from forebay.engine.files import set_kill_hook
from tests.facade.test_alter_job import JOINED, TABLES, rows, scanned, shows
from tests.sim.world import Crash

VIEW = f"SELECT o.shop, SUM(r.part) AS a, 0 AS b {JOINED} GROUP BY o.shop"
MORE = f"SELECT o.shop, SUM(r.part) AS a, CAST(COUNT(*) AS INT) AS b {JOINED} GROUP BY o.shop"


@pytest.fixture
def con(tmp_path: Path) -> forebay.Connection:
    con = forebay.Connection(tmp_path / "w")
    con.execute(TABLES)
    return con


def alter(con: forebay.Connection, view: str, query: str, options: str = "") -> str:
    """Change the view; the class of the change, which EXPLAIN tells too."""
    statement = f"ALTER MATERIALIZED VIEW {view} {options} AS {query}"
    explained = con.explain(statement).splitlines()[0]
    told = (con.execute(statement).message or "").partition(": ")[2].split(":")[0]
    assert explained.startswith(f"{told}:")
    return told


def test_a_view_and_its_readers_show_the_new_result(con: forebay.Connection) -> None:
    con.execute(f"CREATE MATERIALIZED VIEW v AS {VIEW}")
    con.execute("CREATE MATERIALIZED VIEW above AS SELECT SUM(a) AS a, SUM(b) AS b FROM v")
    con.execute("CREATE MATERIALIZED VIEW joined AS SELECT s.city, v.a FROM v JOIN shops s ON s.name = v.shop")
    shows(con, "above", [(12, 0)])
    read = scanned(con)
    assert alter(con, "v", MORE) == "REBUILD_PART"
    assert rows(con, "v") == [("x", 7, 2), ("y", 5, 1)]
    assert (rows(con, "above"), rows(con, "joined")) == ([(12, 3)], [("Oslo", 5), ("Rome", 7)])
    assert scanned(con) == read
    con.execute("INSERT INTO refunds VALUES (2, 9)")
    shows(con, "v", [("x", 16, 3), ("y", 5, 1)])
    shows(con, "above", [(21, 4)])
    shows(con, "joined", [("Oslo", 5), ("Rome", 16)])


def test_the_classes(con: forebay.Connection) -> None:
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT shop, SUM(amount) AS a FROM orders GROUP BY shop")
    shows(con, "v", [("x", 30), ("y", 5), ("z", 1)])
    assert alter(con, "v", "SELECT shop, SUM(amount) AS a FROM orders GROUP BY shop") == "AS_IS"
    assert alter(con, "v", "SELECT shop, SUM(amount) AS total FROM orders GROUP BY shop") == "AFTER_RENAME"
    assert con.sql("SELECT total FROM v WHERE shop = 'x'").fetchall() == [(30,)]
    assert alter(con, "v", "SELECT shop, SUM(amount) * 2 AS a FROM orders GROUP BY shop") == "AS_IS"
    assert rows(con, "v") == [("x", 60), ("y", 10), ("z", 2)]
    assert alter(con, "v", "SELECT amount, COUNT(*) AS n, MIN(shop) AS s FROM orders GROUP BY amount") == "REBUILD_PART"
    assert rows(con, "v") == [(1, 1, "z"), (10, 1, "x"), (20, 1, "x"), (5, 1, "y")]
    assert con.lookup("v", 20) == {"amount": 20, "n": 1, "s": "x"}


def test_what_nothing_knows_is_refused_or_begins_empty(con: forebay.Connection) -> None:
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT order_id, SUM(part) AS a FROM refunds GROUP BY order_id")
    shows(con, "v", [(1, 7), (3, 5)])
    changed = "SELECT order_id, MAX(part) AS a FROM refunds GROUP BY order_id"
    with pytest.raises(forebay.StateError, match="cannot be changed so"):
        con.execute(f"ALTER MATERIALIZED VIEW v AS {changed}")
    con.execute("INSERT INTO refunds VALUES (1, 1)")
    shows(con, "v", [(1, 8), (3, 5)])
    assert alter(con, "v", changed, "WITH ('allow-state-loss' = 'true')") == "INCOMPATIBLE"
    assert rows(con, "v") == []
    con.execute("INSERT INTO refunds VALUES (1, 2)")
    shows(con, "v", [(1, 2)])


def test_wrong_statements(con: forebay.Connection) -> None:
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT id, shop FROM orders; CREATE VIEW plain AS SELECT id FROM v")
    con.execute("CREATE MATERIALIZED VIEW above AS SELECT id FROM plain")
    for statement, message in (
        ("ALTER MATERIALIZED VIEW nope AS SELECT 1 AS x", "nope does not exist"),
        ("ALTER MATERIALIZED VIEW shops AS SELECT 1 AS x", "shops is not a materialized view"),
        ("ALTER MATERIALIZED VIEW v AS SELECT id, amount FROM orders", "columns of View.v. would change"),
        ("ALTER MATERIALIZED VIEW v AS SELECT id, '' AS shop FROM above", "would read itself through 'above'"),
        ("ALTER MATERIALIZED VIEW v AS SELECT idd FROM orders", "idd"),
        ("ALTER MATERIALIZED VIEW v WITH ('x' = 'y') AS SELECT id FROM orders", "unknown option 'x'"),
        ("ALTER MATERIALIZED VIEW v AS INSERT INTO shops VALUES ('a', 'b')", "expected a query after AS"),
        ("ALTER MATERIALIZED VIEW v WITH ('allow-state-loss' = 'maybe') AS SELECT id, shop FROM orders", "cannot be"),
    ):
        with pytest.raises(forebay.ForebayError, match=message) as failure:
            con.execute(statement)
        assert isinstance(failure.value, forebay.StateError) or getattr(failure.value, "line", 1) == 1
    shows(con, "above", [(1,), (2,), (3,), (4,)])


@pytest.mark.parametrize("place", ["checkpoint.rename.before", "checkpoint.rename.after", "catalog.rename.before", ""])
def test_a_change_has_happened_or_not(tmp_path: Path, place: str) -> None:
    """Over a restart, where the view has got other columns, reads a view that was made later, and has lost nothing."""
    con = forebay.Connection(tmp_path / "w")
    con.execute(TABLES)
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT id, shop FROM orders")
    con.execute("CREATE MATERIALIZED VIEW late AS SELECT order_id, SUM(part) AS part FROM refunds GROUP BY order_id")
    shows(con, "v", [(1, "x"), (2, "x"), (3, "y"), (4, "z")])
    shows(con, "late", [(1, 7), (3, 5)])
    con.close()
    con = forebay.Connection(tmp_path / "w", resume=False)

    def die(name: str) -> None:
        if name == place:
            raise Crash

    query = "SELECT o.shop, l.part, o.id FROM late l JOIN orders o ON o.id = l.order_id"
    set_kill_hook(die)
    try:
        alter(con, "v", query)
    except Crash:
        pass
    finally:
        set_kill_hook(None)
    con.warehouse.close(final_checkpoint=False)
    con = forebay.Connection(tmp_path / "w")
    happened = place != "checkpoint.rename.before"
    con.execute("INSERT INTO refunds VALUES (2, 1); INSERT INTO orders VALUES (3, 'q', 3)")
    old, new = [(1, "x"), (2, "x"), (3, "q"), (4, "z")], [("x", 7, 1), ("x", 1, 2), ("q", 5, 3)]
    shows(con, "v", new if happened else old)  # type: ignore[arg-type]
    con.close()


def test_the_statements_of_the_page_run(con: forebay.Connection) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (job,) = re.findall(r"    (ALTER JOB insert_into_by_shop AS\n[^;]*);", page)
    (view,) = re.findall(r"    (ALTER MATERIALIZED VIEW sales AS .*)", page)
    con.execute(f"INSERT INTO by_shop {VIEW}; CREATE MATERIALIZED VIEW sales AS SELECT shop FROM orders")
    shows(con, "by_shop", [("x", 7, 0), ("y", 5, 0)])
    con.execute(job)
    con.execute(view)
    assert rows(con, "by_shop") == [("x", 7, 2), ("y", 5, 1)]
    assert rows(con, "sales") == [("x", 30, 2), ("y", 5, 1), ("z", 1, 1)]
