"""The command line as a process, and the prompt with piped keys."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

import forebay
from forebay.cli.live import LiveResult
from forebay.cli.output import Output
from forebay.cli.repl import Names, Repl, complete
from forebay.cli.run import progress
from forebay.session import Session

TABLE = (
    "CREATE TABLE t (id INT, name STRING, PRIMARY KEY (id) NOT ENFORCED); INSERT INTO t VALUES (1, 'one'), (2, NULL);"
)


def cli(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forebay", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "first", ["from forebay.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass", "import forebay.cli.repl"]
)
def test_help_and_the_prompt_are_quick_and_load_no_engine(first: str) -> None:
    code = f"import sys; {first}\nprint(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [m for m in ("numba", "pyarrow", "datafusion", "sqlglot") if f"'{m}'" in done.stdout]


def test_statements_from_the_command_line_and_from_standard_input(tmp_path: Path) -> None:
    first = cli("sql", str(tmp_path / "w"), "-c", TABLE)
    assert first.returncode == 0 and "error" not in first.stderr
    second = cli("sql", str(tmp_path / "w"), text="SELECT * FROM t ORDER BY id;\nSELECT nme FROM t;\nSELECT 1;")
    assert second.returncode == 1
    assert "one" in second.stdout and "NULL" in second.stdout and "(2 rows)" in second.stdout
    assert "did you mean t.name" in second.stderr and "^" in second.stderr
    assert "EXPR" not in second.stdout


def test_run_ends_with_its_jobs(tmp_path: Path) -> None:
    script = tmp_path / "job.sql"
    script.write_text(
        f"""
        CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'number-of-rows' = '1000', 'rows-per-second' = '100000');
        CREATE TABLE files (n BIGINT) WITH ('connector' = 'filesystem', 'path' = '{tmp_path}/out', 'format' = 'json');
        INSERT INTO files SELECT n FROM numbers;
        """
    )
    done = cli("run", str(script), str(tmp_path / "w"))
    assert done.returncode == 0, done.stderr
    assert "FINISHED" in done.stderr
    with forebay.connect(tmp_path / "w") as con:
        assert con.sql("SELECT COUNT(*) FROM files").fetchall() == [(1000,)]


def test_run_tells_of_a_failed_job(tmp_path: Path) -> None:
    view = "CREATE MATERIALIZED VIEW v AS SELECT CAST(s AS INT) AS n FROM t"
    script = f"CREATE TABLE t (s STRING); {view}; INSERT INTO t VALUES ('x');"
    done = cli("run", "-", text=script)
    assert done.returncode == 1
    assert "failed" in done.stderr


def test_run_is_terminated_with_a_last_checkpoint(tmp_path: Path) -> None:
    script = tmp_path / "job.sql"
    script.write_text(
        """
        CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '1000');
        CREATE MATERIALIZED VIEW v AS SELECT COUNT(*) AS n FROM numbers;
        """
    )
    command = [sys.executable, "-m", "forebay", "run", str(script), str(tmp_path / "w")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (shown := cli("jobs", str(tmp_path / "w")).stdout).count("RUNNING"):  # through the owner's socket
        assert time.monotonic() < deadline, shown
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert "last checkpoint" in errors
    with forebay.connect(tmp_path / "w", resume=False) as con:
        assert con.sql("SELECT n FROM v").fetchall()[0][0] > 0


def test_a_prompt_that_is_terminated_leaves_with_a_last_checkpoint(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "forebay", "sql", str(tmp_path / "w")]
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env={**os.environ, "TERM": "dumb"}) as process:
        os.close(end)
        os.write(terminal, b"CREATE TABLE t (a INT);\r")
        os.write(terminal, b"INSERT INTO t VALUES (1);\r")
        shown = b""
        while b"1 rows changed" not in shown:
            shown += os.read(terminal, 65536)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # the other end is closed
            while os.read(terminal, 65536):
                pass
        assert process.wait() == 128 + signal.SIGTERM
    os.close(terminal)
    assert list((tmp_path / "w" / "checkpoints").glob("manifest-*"))
    with forebay.connect(tmp_path / "w", resume=False) as con:
        assert con.sql("SELECT * FROM t").fetchall() == [(1,)]


def test_jobs_of_no_warehouse(tmp_path: Path) -> None:
    for place in (tmp_path / "nothing", tmp_path):
        done = cli("jobs", str(place))
        assert done.returncode == 1
        assert "there is no warehouse" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_script_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.sql").write_bytes(b"SELECT 1; \xff")
    for script in ("missing.sql", "bad.sql"):
        done = cli("run", str(tmp_path / script))
        assert done.returncode == 1
        assert done.stderr.startswith("error:") and "cannot be read" in done.stderr


@pytest.fixture
def con() -> Iterator[Session]:
    with forebay.connect() as session:
        session.execute(TABLE)
        yield session


def opened(con: Session) -> Future[Session]:
    """As the command line opens it, but done."""
    opening: Future[Session] = Future()
    opening.set_result(con)
    return opening


def typed(con: Session, keys: str) -> str:
    """What the prompt prints for these keys."""
    text = io.StringIO()
    console = Console(file=text, width=100, highlight=False)
    with create_pipe_input() as pipe:
        pipe.send_text(keys)
        Repl(opened(con), Output(console, console), PromptSession(input=pipe, output=DummyOutput())).run()
    return text.getvalue()


def test_prompt(con: Session) -> None:
    shown = typed(
        con, "SELECT name\rFROM t WHERE id = 1;\r\\d t\r\\timing\r\\x\rSELECT * FROM t;\r\\nonsense\rSELEC;\r\\q\r"
    )
    assert "one" in shown and "PRI(id)" in shown and "timing is on" in shown
    assert "name | NULL" in shown
    assert "no command \\nonsense" in shown and "did you mean SELECT" in shown


def test_prompt_ends_with_ctrl_d_and_survives_ctrl_c(con: Session) -> None:
    assert "(1 row)" in typed(con, "SELECT broken\x03SELECT 1;\r\x04")


def test_the_prompt_ends_if_the_warehouse_cannot_be_opened() -> None:
    opening: Future[Session] = Future()
    threading.Timer(0.1, opening.set_exception, [forebay.StateError("no checkpoint can be read")]).start()
    text = io.StringIO()
    console = Console(file=text, width=100, highlight=False)
    with create_pipe_input() as pipe:
        pipe.send_text("SELECT what nobody will answer")
        with pytest.raises(forebay.StateError, match="no checkpoint"):
            Repl(opening, Output(console, console), PromptSession(input=pipe, output=DummyOutput())).run()


def test_a_statement_waits_for_the_warehouse(con: Session) -> None:
    opening: Future[Session] = Future()
    text = io.StringIO()
    console = Console(file=text, width=100, highlight=False)
    with create_pipe_input() as pipe:
        pipe.send_text("SELECT COUNT(*) AS n FROM t;\r\x04")
        threading.Timer(0.3, opening.set_result, [con]).start()
        Repl(opening, Output(console, console), PromptSession(input=pipe, output=DummyOutput())).run()
    assert "still being opened" in text.getvalue() and "(1 row)" in text.getvalue()


def test_completion(con: Session) -> None:
    names = Names(opened(con))

    def offered(text: str) -> list[str]:
        return [c.text for c in names.get_completions(Document(text), CompleteEvent())]

    assert "t" in offered("SELECT * FROM t")
    assert offered("SELECT na FROM t"[:9]) == []
    assert "name" in [c.text for c in names.get_completions(Document("SELECT na FROM t", 9), CompleteEvent())]
    assert "SELECT" in offered("sel")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("SELECT 1;", True),
        ("SELECT 1", False),
        ("SELECT ';", False),
        ("\\d", True),
        ("EXECUTE STATEMENT SET BEGIN INSERT INTO a SELECT 1;", False),
        ("EXECUTE STATEMENT SET BEGIN INSERT INTO a SELECT 1; END;", True),
    ],
)
def test_enter_runs_whole_statements_only(text: str, whole: bool) -> None:
    assert complete(text) is whole


def test_live_result_adds_up() -> None:
    result = LiveResult()
    for change in [("+I", (1,)), ("+I", (2,)), ("-D", (1,)), ("+I", (3,))]:
        result.apply(*change)
    assert result.last(10) == [(2,), (3,)]
    assert (result.count, result.changes) == (2, 4)


def test_progress_shows_every_job(con: Session) -> None:
    con.execute("CREATE MATERIALIZED VIEW v AS SELECT COUNT(*) AS n FROM t")
    text = io.StringIO()
    Console(file=text, width=200).print(progress(con))
    assert "v" in text.getvalue() and "RUNNING" in text.getvalue()
