"""A program that owns a warehouse ends with a last checkpoint, whether it closes it, forgets to, or is told to terminate."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import forebay

PROGRAM = """
import sys, time
import forebay
con = forebay.connect(sys.argv[1], config={"execution.checkpointing.interval": "1 h"})
con.execute('''
  CREATE TABLE src (id INT) WITH (
    'connector' = 'log', 'topic' = 'src', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
  CREATE TABLE dst (id INT) WITH ('connector' = 'log', 'topic' = 'dst', 'format' = 'json',
    'sink.delivery-guarantee' = 'exactly-once', 'scan.bounded.mode' = 'latest-offset', 'scan.startup.mode' = 'earliest-offset');
  INSERT INTO dst SELECT id FROM src;
  INSERT INTO src VALUES (1), (2), (3)
''')
while con.jobs["insert_into_dst"].metrics()["rows_in"] < 3:
    time.sleep(0.05)
print("ready", flush=True)
if sys.argv[2] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize(("how", "code"), [("exit", 0), ("wait", 128 + signal.SIGTERM)])
def test_it_ends_with_a_checkpoint(how: str, code: int, tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "w"), how],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    if how == "wait":
        program.send_signal(signal.SIGTERM)
    program.stdout.close()
    assert program.wait(60) == code
    with forebay.connect(tmp_path / "w") as con:
        assert con.warehouse.restored.checkpoint > 0
        assert sorted(con.sql("SELECT id FROM dst").fetchall()) == [(1,), (2,), (3,)]
