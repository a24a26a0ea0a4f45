"""A process that copies topic `src` to topic `dst` exactly once and kills itself at a kill point: `-m tests.kafka.copying`.

Arguments: warehouse directory, bootstrap servers, kill point (or '-'), and at which of its turns to die.
"""

from __future__ import annotations

import sys

import forebay
from forebay.engine.files import set_kill_hook
from tests.dying import dies_at

TABLES = """
SET 'execution.checkpointing.interval' = '50 ms';
CREATE TABLE IF NOT EXISTS src (id BIGINT) WITH ('connector' = 'kafka', 'topic' = 'src', {servers}, 'format' = 'json',
  'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset');
CREATE TABLE IF NOT EXISTS dst (id BIGINT, again BIGINT) WITH ('connector' = 'kafka', 'topic' = 'dst', {servers},
  'format' = 'json', 'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = 'copy');
"""


def main(directory: str, bootstrap: str, place: str, turn: str) -> None:
    set_kill_hook(dies_at(place, int(turn)))
    with forebay.connect(directory) as con:
        con.execute(TABLES.replace("{servers}", f"'properties.bootstrap.servers' = '{bootstrap}'"))
        if not list(con.jobs):
            con.execute("INSERT INTO dst SELECT id, id * 2 FROM src")
        con.wait(timeout=60)


if __name__ == "__main__":
    main(*sys.argv[1:])
