"""INSERT ... VALUES of many plain constants, read without a tree: columns of constants, and a few rows that tell their types.

Constants are numbers, texts, TRUE, FALSE, NULL, DATE '...' and TIMESTAMP '...'. Their type depends on their *form*: of numbers on
how many digits they have, of others on their kind. The *sample* has a row for each form that a column has, so the types that
the planner finds for its columns are those of all rows. Everything else is for the grammar, and so is every error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlglot import exp
from sqlglot.tokens import Token, TokenType

from forebay.planner import statements as st
from forebay.planner.dialect.reader import Reader

LEAST = 100
"""Rows; fewer are read by the grammar."""
_MOST = 100
"""Rows of a sample: from there on the grammar is as good."""
_HEADER = frozenset(
    (TokenType.VAR, TokenType.IDENTIFIER, TokenType.DOT, TokenType.COMMA, TokenType.L_PAREN, TokenType.R_PAREN)
)
_WORDS = {TokenType.NULL: ("null", None), TokenType.TRUE: ("boolean", True), TokenType.FALSE: ("boolean", False)}
_TYPED = {TokenType.TIMESTAMP: "timestamp", TokenType.DATE: "date"}
_NUMBER = re.compile(r"0*(\d+?)(?:\.(\d+))?(?:[eE][+-]?\d{1,2})?")


class _Constant(NamedTuple):
    kind: str
    value: Any
    form: object = None


class _Row(NamedTuple):
    constants: list[_Constant]
    begins: int
    ends: int
    """Of its tokens; a comma is before the first, but of the first row."""


def insert_constants(r: Reader) -> st.InsertConstants | None:
    """The statement, if it is an INSERT of many plain constants."""
    tokens = r.tokens
    values = _header(tokens)
    rows = _rows(tokens, values + 1) if values is not None else None
    if values is None or rows is None or len(rows) < LEAST:
        return None
    columns = [list(column) for column in zip(*(row.constants for row in rows))]
    sample = _sample(rows, columns)
    kinds = [{c.kind for c in column} - {"null"} for column in columns]
    if len(sample) > _MOST or any(len(k) > 1 and k != {"integer", "decimal"} for k in kinds):
        return None
    parts = [t for n in sample for t in tokens[rows[n].begins - (n > 0) : rows[n].ends]]
    insert = r.nested([*tokens[: values + 1], *parts])
    if not isinstance(insert, st.Insert) or not isinstance(insert.query, exp.Values) or insert.options:
        return None
    read = tuple(st.Constants(min(k, default="null"), [c.value for c in column]) for k, column in zip(kinds, columns))
    return st.InsertConstants(sample=insert, constants=read, whole=lambda: r.nested(tokens), **r.place)


def _header(tokens: Sequence[Token]) -> int | None:
    """Where VALUES is, if nothing but the target and its columns are before it."""
    if len(tokens) < 4 * LEAST or tokens[0].token_type != TokenType.INSERT or tokens[1].token_type != TokenType.INTO:
        return None
    for at, token in enumerate(tokens[2:], 2):
        if token.token_type == TokenType.VALUES:
            return at
        if token.token_type not in _HEADER or token.comments:
            return None
    return None


def _rows(tokens: Sequence[Token], at: int) -> list[_Row] | None:
    rows: list[_Row] = []
    while at < len(tokens):
        row = _row(tokens, at)
        if row is None or (rows and len(row.constants) != len(rows[0].constants)):
            return None
        rows.append(row)
        at = row.ends + 1
        if row.ends < len(tokens) and tokens[row.ends].token_type != TokenType.COMMA:
            return None
    return rows if rows and rows[-1].ends == len(tokens) else None


def _row(tokens: Sequence[Token], begins: int) -> _Row | None:
    """Constants in parentheses."""
    if tokens[begins].token_type != TokenType.L_PAREN:
        return None
    constants: list[_Constant] = []
    at = begins + 1
    while at + 1 < len(tokens):
        width, found = _constant(tokens[at], tokens[at + 1])
        if found is None or at + width >= len(tokens):
            return None
        constants.append(found)
        at += width + 1
        match tokens[at - 1].token_type:
            case TokenType.R_PAREN:
                return _Row(constants, begins, at)
            case TokenType.COMMA:
                continue
        return None
    return None


def _constant(token: Token, after: Token) -> tuple[int, _Constant | None]:
    """(how many tokens, constant)"""
    kind = token.token_type
    if kind == TokenType.NUMBER:
        return 1, _number(token.text, "")
    if kind == TokenType.STRING:
        return 1, _Constant("string", token.text)
    if kind in _WORDS:
        return 1, _Constant(*_WORDS[kind])
    if kind == TokenType.DASH and after.token_type == TokenType.NUMBER:
        return 2, _number(after.text, "-")
    if kind in _TYPED and after.token_type == TokenType.STRING:
        return 2, _Constant(_TYPED[kind], after.text)
    return 1, None


def _number(text: str, sign: str) -> _Constant | None:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    if "e" in text.lower():
        return _Constant("float", sign + text)
    whole, fraction = found.groups()
    if fraction is not None:
        return _Constant("decimal", sign + text, (len(whole), len(fraction), len(text), whole == "0"))
    number = int(whole)
    return _Constant("integer", -number if sign else number, number < 2**31) if number < 2**63 else None


def _sample(rows: Sequence[_Row], columns: Sequence[list[_Constant]]) -> list[int]:
    """The first row, and those in which a column has a form for the first time."""
    chosen = {0}
    for column in columns:
        seen: dict[object, int] = {}
        for n, constant in enumerate(column):
            seen.setdefault((constant.kind, constant.form), n)
        chosen.update(seen.values())
    return sorted(chosen)
