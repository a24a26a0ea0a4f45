"""The history of the simulation's table `history`: a file of rows from before its stream, which no run changes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SHOPS = 4
HISTORY = {key: (key % SHOPS, 1000 + key) for key in range(40)}
"""(shop, v) by id."""
DDL = """
CREATE TABLE history (id BIGINT, shop BIGINT, v BIGINT, at TIMESTAMP(3), PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = 'upsert-log', 'topic' = 'history', 'key.format' = 'json', 'value.format' = 'json',
        'bootstrap.path' = '{history}', 'bootstrap.version' = 'at', 'bootstrap.until' = '2023-11-14 22:00:00');
CREATE MATERIALIZED VIEW past AS SELECT h.id, h.v, s.name FROM history h LEFT JOIN shops s ON s.id = h.shop;
"""


def write_history(directory: Path) -> None:
    """Write the file, where it is not there."""
    if directory.exists():
        return
    directory.mkdir()
    columns = [[*HISTORY], [shop for shop, _ in HISTORY.values()], [v for _, v in HISTORY.values()]]
    old = pa.array([datetime(2023, 11, 1)] * len(HISTORY), pa.timestamp("ms"))
    rows = pa.table([*columns, old], names=["id", "shop", "v", "at"])
    pq.write_table(rows, directory / "part-0.parquet", row_group_size=7)
