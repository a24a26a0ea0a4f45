"""One process owns the warehouse and runs its jobs; another attaches to it, writes, and follows the changes."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import forebay

CLIENT = """
import sys
import forebay

with forebay.connect(sys.argv[1]) as con, con.stream("SELECT * FROM totals") as changes:
    con.execute("INSERT INTO sales VALUES ('tea', 3), ('coffee', 4)")
    con.execute("INSERT INTO sales VALUES ('tea', 2)")
    for kind, row in changes:
        print("client:", kind, *row)
        if row == ("tea", 5):
            break
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, forebay.connect(directory) as con:
        con.execute("""
            CREATE TABLE sales (product STRING, n INT);
            CREATE MATERIALIZED VIEW totals AS SELECT product, SUM(n) AS n FROM sales GROUP BY product;
        """)
        client = subprocess.run([sys.executable, "-c", CLIENT, directory], capture_output=True, text=True, check=True)
        print(client.stdout, end="")
        print("owner:", con.sql("SELECT * FROM totals ORDER BY product").fetchall())


if __name__ == "__main__":
    main()
