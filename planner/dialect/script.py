"""A script of statements: split, parsed one by one, every error with its place in the script.

Queries and definitions go through the dialect's grammar; the small statements around them (SHOW, SET, ALTER TABLE, STATEMENT
SET ...) are read token by token. A statement is told by its first word, and read to its last.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlglot import exp
from sqlglot.errors import TokenError
from sqlglot.tokens import TokenType

from forebay.engine.errors import SqlError, nearest
from forebay.planner import statements as st
from forebay.planner.dialect import ddl, dml, talk
from forebay.planner.dialect.constants import insert_constants
from forebay.planner.dialect.flink import Flink
from forebay.planner.dialect.reader import QUERY, Reader, split

_AFTER_NO_COMMA = frozenset((TokenType.COMMA, TokenType.R_PAREN, TokenType.FROM, TokenType.SEMICOLON))
_STARTS = ("SELECT", "WITH", "VALUES", "CREATE", "DROP", "ALTER", "INSERT", "UPDATE", "DELETE", "EXPLAIN", "SHOW")
_KEYWORDS = (
    *_STARTS,
    "CALL",
    "DESCRIBE",
    "DESC",
    "SET",
    "RESET",
    "EXECUTE",
    "BEGIN",
    "STOP",
    "RESUME",
    "RESTORE",
    "TRACE",
)


def parse(script: str) -> list[st.Statement]:
    """Every statement of a script, in order.

    Raises:
        SqlError: with the line and column of the offending token.
    """
    try:
        tokens = Flink().tokenize(script)
    except TokenError as error:
        at = _unclosed(script)
        line, column = script.count("\n", 0, at) + 1, at - (script.rfind("\n", 0, at) + 1) + 1
        what = "a comment" if script[at : at + 1] == "/" else "a quote"
        raise SqlError(f"{what} is not closed", sql=script, line=line, column=column) from error
    readers = [Reader(script, chunk, _statement) for chunk in split(tokens)]
    return [insert_constants(reader) or _statement(reader) for reader in readers]


_PIECE = re.compile(r"'(?:[^']|'')*'|`(?:[^`]|``)*`|--[^\n]*|/\*.*?\*/|.", re.DOTALL)


def _unclosed(script: str) -> int:
    """Where the quote or comment begins that makes the text unreadable."""
    pieces = (piece for piece in _PIECE.finditer(script) if piece[0] in ("'", "`", "/"))
    return next((p.start() for p in pieces if p[0] != "/" or script.startswith("/*", p.start())), 0)


def parse_expression(text: str) -> exp.Expression:
    """A scalar expression, as in a computed column."""
    reader = Reader(text, Flink().tokenize(text), _statement)
    parsed = reader.guarded(reader.parser._parse_expression)
    reader.end()
    return parsed


def _statement(r: Reader) -> st.Statement:
    """The statement, all of it."""
    _refuse_stray_commas(r)
    read = _READERS.get(r.word())
    if read is None:
        if r.word() not in QUERY:
            close = nearest(r.word(), _KEYWORDS)
            raise r.fail(
                f"a statement cannot start with '{r.parser._curr.text}'",
                hint=f"did you mean {close}?" if close else None,
            )
        read = dml.query
    found = read(r)
    r.end()
    return found


def _refuse_stray_commas(r: Reader) -> None:
    """sqlglot reads over a comma that nothing follows."""
    for token, after in zip(r.tokens, [*r.tokens[1:], None]):
        ends = after is None or after.token_type in _AFTER_NO_COMMA
        if token.token_type == TokenType.COMMA and ends:
            raise r.placed(SqlError("nothing follows the comma", detail="near ','"), token)


_READERS: dict[str, Callable[[Reader], st.Statement]] = {
    "CREATE": ddl.create,
    "DROP": ddl.drop,
    "ALTER": ddl.alter,
    "CALL": talk.call,
    "INSERT": dml.insert,
    "EXECUTE": dml.statement_set,
    "BEGIN": dml.statement_set,
    "UPDATE": dml.update,
    "DELETE": dml.delete,
    "EXPLAIN": talk.explain,
    "SHOW": talk.show,
    "DESCRIBE": talk.describe,
    "DESC": talk.describe,
    "SET": talk.set_option,
    "RESET": talk.reset_option,
    "STOP": talk.control,
    "RESUME": talk.control,
    "RESTORE": talk.restore,
    "TRACE": talk.trace,
}
