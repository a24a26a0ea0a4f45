"""Orders and refunds from a topic become a wide table, the wide table becomes metrics per city, metrics are looked up by key.

Runs with no server: the topics lie in the warehouse ('connector' = 'log'). With a broker, write 'kafka' and add
'properties.bootstrap.servers'.
"""

from __future__ import annotations

import tempfile

import forebay

TABLES = """
CREATE TABLE orders (id INT, city STRING, amount DECIMAL(10, 2))
  WITH ('connector' = 'log', 'topic' = 'orders', 'format' = 'json');
CREATE TABLE refunds (order_id INT, amount DECIMAL(10, 2))
  WITH ('connector' = 'log', 'topic' = 'refunds', 'format' = 'json');

CREATE MATERIALIZED VIEW wide AS
  SELECT o.id, o.city, o.amount, r.amount AS refunded
  FROM orders o LEFT JOIN refunds r ON r.order_id = o.id;

CREATE MATERIALIZED VIEW cities AS
  SELECT city, COUNT(*) AS orders, SUM(amount) AS sold, SUM(refunded) AS refunded FROM wide GROUP BY city;
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, forebay.connect(directory) as con:
        con.execute(TABLES)
        changes = con.stream("SELECT city, sold, refunded FROM cities")
        con.execute("INSERT INTO orders VALUES (1, 'Berlin', 20.00), (2, 'Rome', 8.50), (3, 'Berlin', 5.00)")
        con.execute("INSERT INTO refunds VALUES (1, 4.00)")  # it may come a month later: the join remembers
        for kind, row in changes:
            print(kind, *row)
            if kind == "+I" and row[0] == "Berlin" and row[2] is not None:
                break
        changes.close()
        print("Berlin:", con.lookup("cities", "Berlin"))
        print(con.sql("SELECT * FROM wide ORDER BY id").df())


if __name__ == "__main__":
    main()
