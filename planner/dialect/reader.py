"""One statement's tokens, read with the grammar's parser or by words; every error has its place in the script.

The parser stands at one token of the statement; what is read goes past it. A script is cut into statements before, at its
semicolons: a statement set is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlglot.errors import ErrorLevel, ParseError
from sqlglot.tokens import Token, TokenType

from forebay.engine.errors import SqlError
from forebay.planner import statements as st
from forebay.planner.dialect.flink import Flink, FlinkParser

QUERY = ("SELECT", "WITH", "VALUES", "(")
"""What a query begins with."""
_LAST_HINT = re.compile(r"\s*/\*\+.*?\*/", re.DOTALL)


def split(tokens: list[Token]) -> list[list[Token]]:
    """One token list per statement; a statement set is one."""
    chunks: list[list[Token]] = [[]]
    in_set = False
    for token in tokens:
        if token.token_type != TokenType.SEMICOLON:
            chunks[-1].append(token)
            in_set = in_set or _starts_set(chunks[-1])
        elif in_set and chunks[-1][-1].text.upper() != "END":
            chunks[-1].append(token)
        else:
            in_set = False
            chunks.append([])
    return [chunk for chunk in chunks if chunk]


def _starts_set(chunk: list[Token]) -> bool:
    """Asked after each token, of which an INSERT may have very many: only SET is looked at."""
    if chunk[-1].text.upper() != "SET":
        return False
    first, last = ([t.text.upper() for t in part] for part in (chunk[:3], chunk[-4:]))
    sets = (["EXECUTE", "STATEMENT", "SET"], ["BEGIN", "STATEMENT", "SET"])
    return first in sets or (first[:2] == ["ALTER", "JOB"] and last in [["AS", *s] for s in sets])


class Reader:
    """Reads one statement."""

    def __init__(self, script: str, tokens: list[Token], read: Callable[[Reader], st.Statement]) -> None:
        """`read` reads the statement that a reader stands at the beginning of; statements hold statements."""
        self.script = script
        self.tokens = tokens
        self._read = read
        self.parser = FlinkParser(dialect=Flink(), error_level=ErrorLevel.IMMEDIATE)
        self._load(tokens)
        first, last = tokens[0], tokens[-1]
        hint = _LAST_HINT.match(script, last.end + 1)  # no token of its own, and yet part of the statement
        self.ends = hint.end() if hint is not None else last.end + 1
        self.place = {
            "sql": script[first.start : self.ends],
            "line": script.count("\n", 0, first.start) + 1,
            "column": first.start - (script.rfind("\n", 0, first.start) + 1) + 1,
        }

    def _load(self, tokens: list[Token]) -> None:
        parser = self.parser
        parser.reset()
        parser.sql = self.script
        parser._tokens = tokens
        parser._tokens_size = len(tokens)
        parser._index = -1
        parser._advance()

    def guarded(self, work: Callable[[], Any]) -> Any:
        """Run a parser method; its errors become ours."""
        try:
            return work()
        except RecursionError as error:
            raise self.refuse("the statement is nested too deeply", hint="split it into views") from error
        except ParseError as error:
            found = error.errors[0] if error.errors else {}
            line, end, text = found.get("line"), found.get("col"), found.get("highlight") or ""
            column = None if end is None else max(int(end) - len(text) + 1, 1)
            message = _plain(str(found.get("description") or error), text)
            raise SqlError(message, sql=self.script, line=line, column=column, detail=f"near '{text}'") from error

    def fail(self, message: str, hint: str | None = None) -> SqlError:
        """An error at the current token."""
        token = self.parser._curr or self.tokens[-1]
        at = token.start if self.parser._curr else token.end + 1
        line = self.script.count("\n", 0, at) + 1
        column = at - (self.script.rfind("\n", 0, at) + 1) + 1
        return SqlError(message, sql=self.script, line=line, column=column, hint=hint)

    def named(self, error: SqlError, names: list[str]) -> SqlError:
        """The error at the first token that spells one of the names."""
        found = next((t for n in names for t in self.tokens if t.text.lower() == n.lower()), self.tokens[0])
        return self.placed(error, found)

    def placed(self, error: SqlError, found: Token) -> SqlError:
        """The error at a token."""
        error.sql = self.script
        error.line = self.script.count("\n", 0, found.start) + 1
        error.column = found.start - (self.script.rfind("\n", 0, found.start) + 1) + 1
        return error

    def refuse(self, message: str, hint: str | None = None) -> SqlError:
        """An error about the statement as a whole."""
        return SqlError(message, sql=self.script, line=self.place["line"], column=self.place["column"], hint=hint)

    def word(self) -> str:
        """The current token in upper case, '' at the end."""
        return self.parser._curr.text.upper() if self.parser._curr else ""

    def take(self, *words: str) -> bool:
        """Go past these words if they come next."""
        at = self.parser._index
        for word in words:
            if self.word() != word:
                self.parser._retreat(at)
                return False
            self.parser._advance()
        return True

    def need(self, *words: str) -> None:
        """Go past these words.

        Raises:
            SqlError: something else comes next.
        """
        if not self.take(*words):
            found = f"found '{self.parser._curr.text}'" if self.parser._curr else "the statement ends"
            raise self.fail(f"expected {' '.join(words)}, {found}")

    def name(self) -> str:
        """An identifier, dotted if qualified."""
        parts = [self.part()]
        while self.parser._curr and self.parser._curr.token_type == TokenType.DOT:
            self.parser._advance()
            parts.append(self.part())
        return ".".join(parts)

    def quoted_or_name(self) -> str:
        """A name, as an identifier or as a string."""
        token = self.parser._curr
        return self.text() if token and token.token_type == TokenType.STRING else self.name()

    def part(self) -> str:
        """An identifier, without what may follow a dot."""
        if not self.parser._curr or self.parser._curr.token_type in (TokenType.STRING, TokenType.L_PAREN):
            raise self.fail("expected a name")
        text = str(self.parser._curr.text)
        self.parser._advance()
        return text

    def text(self) -> str:
        """A string in quotes, or a dotted word as SET allows."""
        token = self.parser._curr
        if token and token.token_type == TokenType.STRING:
            self.parser._advance()
            return str(token.text)
        start = token
        last = token
        while self.parser._curr and self.parser._curr.token_type != TokenType.EQ:
            last = self.parser._curr
            self.parser._advance()
        if not start:
            raise self.fail("expected a value")
        return self.script[start.start : last.end + 1].strip()

    def end(self) -> None:
        """Raise if anything is left."""
        if self.parser._curr:
            raise self.fail(f"unexpected '{self.parser._curr.text}'")

    def nested(self, tokens: list[Token]) -> st.Statement:
        """A statement within this one, all of it."""
        return self._read(Reader(self.script, tokens, self._read))


def _plain(message: str, near: str) -> str:
    """sqlglot's message in words that do not name its classes."""
    if "required keyword" in message.lower():
        return f"something is missing at '{near}'"
    message = re.sub(r" but got <Token .*", ", but the statement ends or goes on otherwise", message).rstrip(".")
    return message if message[1:2].isupper() else message[:1].lower() + message[1:]
