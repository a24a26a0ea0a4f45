"""Savepoints on S3: copied there and begun from there, over real HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import forebay
from forebay.engine.runtime.budget import Budget
from tests.durable.test_savepoints import HOUR, SETUP, go_on, names, wide
from tests.oracle.test_sealed import seal_all
from tests.servers import s3

pytest.importorskip("moto")
ROOT = Path(__file__).parents[2]
VICTIM = """
import os, signal, sys
import forebay
from forebay.engine.files import set_kill_hook
left = int(sys.argv[3])
def die(name):
    global left
    left -= name == "savepoint.copied"
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
set_kill_hook(die)
with forebay.connect(sys.argv[1]) as con:
    con.execute(f"CREATE SAVEPOINT two TO '{sys.argv[2]}'")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3.running() as address:
        yield address


@pytest.fixture
def uri(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "me"),
        ("AWS_SECRET_ACCESS_KEY", "mine"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    return f"s3://backup/shop?region=us-east-1&scheme=http&endpoint_override={server}"


def objects(server: str) -> dict[str, str]:
    """Keys and when they were written."""
    with urllib.request.urlopen(f"http://{server}/backup?list-type=2") as answer:
        text = answer.read().decode()
    return {
        part.split("</Key>")[0]: part.split("<LastModified>")[1].split("</LastModified>")[0]
        for part in text.split("<Key>")[1:]
    }


def test_a_warehouse_goes_to_s3_and_comes_back(
    tmp_path: Path, uri: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "keep", seal_all)
    with forebay.connect(tmp_path / "w", config=HOUR) as con:
        con.execute(SETUP)
        shown = wide(con)
        con.execute(f"CREATE SAVEPOINT one TO '{uri}'")
        before = objects(server)
        assert any(".sst" in key for key in before)
        go_on(con)
    # a copy is cut off by kill -9: there is no savepoint, and the next copy goes on with what it has sent
    command = [sys.executable, "-c", VICTIM, str(tmp_path / "w"), uri, "3"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not any(key.endswith("two.savepoint") for key in objects(server))
    with forebay.connect(tmp_path / "w") as con:
        changed = wide(con)
        con.execute(f"CREATE SAVEPOINT two TO '{uri}'")
        assert names(con) == ["one", "two"]
        after = objects(server)
        sent = {key: at for key, at in before.items() if not key.endswith("/")}
        assert {key: after[key] for key in sent} == sent  # what was there was not sent again
        con.execute("RESTORE SAVEPOINT one")
        assert wide(con) == shown
    forebay.restore(tmp_path / "other", "two", uri)
    with forebay.connect(tmp_path / "other") as con:
        assert wide(con) == changed
        assert names(con) == []
    with forebay.connect(tmp_path / "w") as con:
        con.execute("DROP SAVEPOINT one; DROP SAVEPOINT two")
    assert not [key for key in objects(server) if key.endswith((".savepoint", ".sst", ".bin"))]


def test_keys_in_a_uri_are_not_shown(tmp_path: Path, server: str) -> None:
    uri = f"s3://me:mine@backup/secret?region=us-east-1&scheme=http&endpoint_override={server}"
    with forebay.connect(tmp_path / "w") as con:
        con.execute(f"CREATE TABLE t (n INT); CREATE SAVEPOINT s TO '{uri}'")
        assert "mine" not in json.dumps(con.sql("SHOW SAVEPOINTS").fetchall(), default=str)
        con.execute("DROP SAVEPOINT s")
