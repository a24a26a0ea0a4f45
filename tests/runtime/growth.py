"""`python -m tests.runtime.growth ROWS`: what state adds to the memory of a process, by the accounts and by the system.

One line of JSON: per kind of state [bytes of the accounts, bytes of anonymous memory], each since before its job was made.
"""

from __future__ import annotations

import gc
import json
import sys

from bench.keyed import CASES, CheckSink, Rows, RowSource
from forebay.connection import Connection
from forebay.connectors import default_registry
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Option
from forebay.engine.runtime.resident import resident, trim

KINDS = {
    "join": ("append", "SELECT t.k, t.v, t.name FROM t JOIN u ON t.k = u.k AND u.v < 0", CASES["top-n"].columns),
    **{name: (case.kind, case.query, case.columns) for name, case in CASES.items()},
}


class Forgetful(CheckSink):
    """Keeps nothing."""

    def write(self, batch: Batch) -> None:
        pass


def now(con: Connection) -> tuple[int, int]:
    """(bytes of the accounts, bytes of anonymous memory)."""
    with con.warehouse.driver.boundary() as flow:
        gc.collect()
        trim()
        return sum(con.warehouse.driver.budget.accounts(flow).values()), resident().anonymous


def measure(kind: str, rows: int) -> tuple[int, int]:
    """What the state of a job over so many rows adds."""
    changelog, query, columns = KINDS[kind]
    made = Rows(1000, 1000)
    registry = default_registry()
    registry.connectors["rows"] = Connector("rows", (Option("kind", ""),), lambda spec: RowSource(made, changelog))
    registry.connectors["check"] = Connector(
        "check", (), sink=lambda spec: Forgetful(), sink_changelog=lambda spec: Changelog.RETRACT
    )
    key = ", PRIMARY KEY (k) NOT ENFORCED" if changelog == "upsert" else ""
    with Connection(":memory:", registry=registry) as con:
        con.execute("SET 'memory.budget' = '1GB'")
        for table in "tu":
            con.execute(
                f"CREATE TABLE {table} (k BIGINT, v BIGINT, name STRING{key}) WITH ('connector' = 'rows', 'kind' = '')"
            )
        con.execute(f"CREATE TABLE o ({columns}) WITH ('connector' = 'check'); INSERT INTO o {query}")
        con.wait()  # all that is made once is there
        (job,) = con.warehouse.driver.jobs
        con.execute(f"DROP JOB {job}")
        before = now(con)
        made = Rows(rows, rows)
        con.execute(f"INSERT INTO o {query}")
        con.wait()
        after = now(con)
    return after[0] - before[0], after[1] - before[1]


if __name__ == "__main__":
    print(json.dumps({kind: measure(kind, int(sys.argv[1])) for kind in sys.argv[2:] or KINDS}))
