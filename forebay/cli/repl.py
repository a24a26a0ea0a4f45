"""The prompt: history, completion of keywords, tables and columns, several lines, colour, and commands that start with a
backslash. A statement ends with a semicolon; Ctrl-C cancels what is being typed or run, Ctrl-D leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.patch_stdout import patch_stdout
from pygments.lexers.sql import SqlLexer

from forebay.cli.loading import watch_loading
from forebay.cli.output import Output
from forebay.cli.sql import run_script
from forebay.engine.errors import ForebayError

if TYPE_CHECKING:
    from forebay.session import Session

_KEYWORDS = (
    "ALTER TABLE", "AND", "AS", "BETWEEN", "CASE", "CAST", "COUNT", "CREATE MATERIALIZED VIEW", "CREATE TABLE", "CREATE VIEW",
    "DELETE FROM", "DESCRIBE", "DISTINCT", "DROP JOB", "DROP MATERIALIZED VIEW", "DROP TABLE", "DROP VIEW", "ELSE", "END",
    "EXECUTE STATEMENT SET BEGIN", "EXISTS", "EXPLAIN", "EXPLAIN STATE", "FROM", "FULL JOIN", "GROUP BY", "HAVING", "IN",
    "INSERT INTO", "INTERVAL", "IS NOT NULL", "IS NULL", "JOIN", "LEFT JOIN", "LIKE", "LIMIT", "NOT", "NULL", "ON", "OR",
    "ORDER BY", "OVER", "PARTITION BY", "PRIMARY KEY", "RESET", "RESUME JOB", "SELECT", "SET", "SHOW CREATE TABLE",
    "SHOW DEAD LETTERS", "SHOW FUNCTIONS", "SHOW JOBS", "SHOW MATERIALIZED VIEWS", "SHOW SCHEMA CHANGES", "SHOW STATE",
    "SHOW TABLES", "SHOW VIEWS", "STOP JOB", "SUM", "THEN", "TRACE JOB", "TUMBLE", "UNION ALL", "UPDATE", "VALUES",
    "WATERMARK FOR", "WHEN", "WHERE", "WITH",
)  # fmt: skip
_HELP = """\\d [name]   columns of a table or view; without a name, what there is
\\dt \\dv     tables; views
\\j          jobs
\\timing     show how long statements take
\\x          one line per column instead of one per row
\\i FILE     run a script
\\q          leave (Ctrl-D)"""


class Repl:
    """One interactive session over a warehouse that may still be opening. `prompt_session` stands in for the terminal's in
    tests."""

    def __init__(
        self, opening: Future[Session], output: Output, prompt_session: PromptSession[str] | None = None
    ) -> None:
        self._opening = opening
        self._output = output
        self._timing = False
        self._watched = False
        self._open = True
        self._prompt = prompt_session or PromptSession(history=_history())
        self._commands: dict[str, Callable[[str], None]] = {
            "?": lambda _: output.console.print(_HELP),
            "d": self._describe,
            "dt": lambda _: self._run("SHOW TABLES"),
            "dv": lambda _: self._run("SHOW VIEWS; SHOW MATERIALIZED VIEWS"),
            "i": self._include,
            "j": lambda _: self._run("SHOW JOBS"),
            "q": lambda _: self._leave(),
            "timing": lambda _: self._toggle_timing(),
            "x": lambda _: self._toggle_expanded(),
        }

    def run(self) -> None:
        """Prompt until the user leaves.

        Raises:
            ForebayError: the warehouse cannot be opened.
        """
        self._output.console.print("forebay: statements end with ';', \\? lists commands, Ctrl-D leaves", style="dim")
        while self._open:
            try:
                with patch_stdout():  # what the engine says while a line is typed goes above it
                    text = self._prompt.prompt(
                        "forebay> ",
                        multiline=True,
                        prompt_continuation="     ... ",
                        lexer=PygmentsLexer(SqlLexer),
                        completer=Names(self._opening),
                        complete_while_typing=False,
                        key_bindings=_keys(),
                        pre_run=self._leave_unopened,
                    )
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            self.handle(text.strip())

    def handle(self, text: str) -> None:
        """One input: statements, or a backslash command. Ctrl-C ends it, not the session."""
        if not text:
            return
        try:
            if text.startswith("\\"):
                self._command(text[1:].rstrip(";"))
            else:
                self._run(text)
        except KeyboardInterrupt:
            self._output.errors.print("cancelled", style="dim")

    def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        command = self._commands.get(name)
        if command is None:
            self._output.errors.print(f"there is no command \\{name}; \\? lists them")
            return
        command(argument.strip())

    def _leave_unopened(self) -> None:
        """End the prompt, whenever it is, with the reason why the warehouse cannot be opened."""
        app = self._prompt.app
        loop = app.loop

        def leave(opening: Future[Session]) -> None:
            error = opening.exception()
            if error is not None and loop is not None:
                loop.call_soon_threadsafe(lambda: app.exit(exception=error))

        if not self._watched:
            self._watched = True
            self._opening.add_done_callback(leave)

    def _run(self, text: str) -> None:
        if not self._opening.done():
            self._output.console.print("the warehouse is still being opened", style="dim")
        run_script(self._opening.result(), text, self._output, timing=self._timing)
        watch_loading(self._opening.result(), self._output)

    def _describe(self, name: str) -> None:
        self._run(f"DESCRIBE {name}" if name else "SHOW TABLES; SHOW VIEWS; SHOW MATERIALIZED VIEWS")

    def _include(self, file: str) -> None:
        try:
            self._run(Path(file).read_text())
        except OSError as error:
            self._output.errors.print(f"{file}: {error.strerror}")

    def _toggle_timing(self) -> None:
        self._timing = not self._timing
        self._output.console.print(f"timing is {'on' if self._timing else 'off'}")

    def _toggle_expanded(self) -> None:
        self._output.expanded = not self._output.expanded
        self._output.console.print(f"expanded rows are {'on' if self._output.expanded else 'off'}")

    def _leave(self) -> None:
        self._open = False


class Names(Completer):
    """Completes keywords, names of relations, and columns of the relations that the text mentions."""

    def __init__(self, opening: Future[Session]) -> None:
        self._opening = opening

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What may continue the word before the cursor."""
        word = document.get_word_before_cursor(WORD=False)
        if not word or not self._opening.done():
            return
        relations = self._relations()
        columns = [c for r in relations if r in document.text for c in self._columns(r)]
        for name in sorted({*relations, *columns}):
            if name.startswith(word):
                yield Completion(name, -len(word))
        for keyword in _KEYWORDS:
            if keyword.startswith(word.upper()):
                yield Completion(keyword, -len(word))

    def _relations(self) -> list[str]:
        kinds = ("TABLES", "VIEWS", "MATERIALIZED VIEWS")
        return [row[0] for kind in kinds for row in self._opening.result().execute(f"SHOW {kind}").fetchall()]

    def _columns(self, relation: str) -> list[str]:
        try:
            return [row[0] for row in self._opening.result().execute(f"DESCRIBE `{relation}`").fetchall()]
        except ForebayError:
            return []  # a view has no columns of its own to describe


def complete(text: str) -> bool:
    """Whether Enter should run the text: a command, or statements with their last semicolon."""
    stripped = text.strip()
    if not stripped or stripped.startswith("\\"):
        return True
    if stripped.count("'") % 2 or not stripped.endswith(";"):
        return False
    words = stripped.upper().rstrip(";").split()
    last_set = max((i for i in range(len(words) - 1) if words[i : i + 2] == ["STATEMENT", "SET"]), default=None)
    return last_set is None or "END" in words[last_set:]


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        if complete(event.current_buffer.text):
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return keys


def _history() -> History:
    path = Path.home() / ".forebay_history"
    try:
        path.touch(mode=0o600, exist_ok=True)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
