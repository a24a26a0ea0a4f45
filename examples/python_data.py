"""Data and functions from Python: a Polars frame joined with a view, a function of Arrow arrays in SQL."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

import forebay


@forebay.udf(["DOUBLE", "STRING"], "DOUBLE")
def in_euros(amounts: pa.Array, currencies: pa.Array) -> pa.Array:
    """Amounts at a fixed rate; NULL for currencies without one."""
    rates = pc.index_in(currencies, value_set=pa.array(["EUR", "USD"]))
    return pc.multiply(amounts, pa.array([1.0, 0.9]).take(rates))


def main() -> None:
    with forebay.connect(functions=[in_euros]) as con:
        con.execute("""
            CREATE TABLE payments (customer INT, amount DOUBLE, currency STRING);
            CREATE MATERIALIZED VIEW paid AS
              SELECT customer, SUM(in_euros(amount, currency)) AS euros FROM payments GROUP BY customer;
            INSERT INTO payments VALUES (1, 10, 'EUR'), (1, 20, 'USD'), (2, 5, 'EUR'), (2, 7, 'XXX');
        """)
        con.register("customers", pl.DataFrame({"id": [1, 2], "name": ["Ada", "Bob"]}))
        print(con.sql("SELECT name, euros FROM paid JOIN customers ON id = customer ORDER BY name").pl())


if __name__ == "__main__":
    main()
