"""Hints in comments: OPTIONS behind a table, STATE_TTL behind SELECT."""

from __future__ import annotations

import re

from sqlglot import exp

from forebay.engine.errors import SqlError
from forebay.planner.dialect.nodes import StateTtlHint

_MILLIS = {
    "ms": 1, "milli": 1, "millisecond": 1, "s": 1000, "sec": 1000, "second": 1000, "m": 60_000, "min": 60_000,
    "minute": 60_000, "h": 3_600_000, "hour": 3_600_000, "d": 86_400_000, "day": 86_400_000,
}  # fmt: skip

_PAIR = re.compile(r"'((?:[^']|'')*)'\s*=\s*'((?:[^']|'')*)'")


def hint_options(table: exp.Table) -> tuple[tuple[str, str], ...]:
    """The pairs of an OPTIONS hint behind a table, sorted.

    The tokenizer gives a hint that does not follow SELECT as a comment.

    Raises:
        SqlError: the hint cannot be read.
    """
    pairs: dict[str, str] = {}
    for hint in table.args.get("hints") or ():
        pairs.update((i.this.name, i.expression.name) for i in hint.expressions if isinstance(i, exp.EQ))
    for comment in table.comments or ():
        pairs.update(comment_options(comment))
    return tuple(sorted(pairs.items()))


def comment_options(comment: str) -> dict[str, str]:
    """The pairs of a comment that is an OPTIONS hint; none of another.

    Raises:
        SqlError: the hint cannot be read.
    """
    found = re.fullmatch(r"\s*OPTIONS\s*\((.*)\)\s*", comment, re.IGNORECASE | re.DOTALL)
    if found is None:
        return {}
    if not re.fullmatch(rf"\s*{_PAIR.pattern}\s*(,\s*{_PAIR.pattern}\s*)*", found.group(1)):
        raise SqlError("the OPTIONS hint cannot be read", hint="write /*+ OPTIONS('key'='value', ...) */")
    return {k.replace("''", "'"): v.replace("''", "'") for k, v in _PAIR.findall(found.group(1))}


def state_ttls(select: exp.Select) -> dict[str, int]:
    """Milliseconds by table name of a STATE_TTL hint.

    Raises:
        SqlError: a duration cannot be read, or a table has two.
    """
    hint = select.args.get("hint")
    found: dict[str, int] = {}
    for item in hint.expressions if hint is not None else ():
        if isinstance(item, StateTtlHint):
            for pair in item.expressions:
                if pair.this.name in found:
                    raise SqlError(f"STATE_TTL names {pair.this.name} twice", hint="one duration for each table")
                found[pair.this.name] = milliseconds(pair.expression.name)
    return found


def milliseconds(text: str) -> int:
    """A duration such as '35d', '1 h' or '30 min' in ms.

    Raises:
        SqlError: it is no duration.
    """
    parts = re.fullmatch(r"\s*(\d+)\s*([a-zA-Z]*)\s*", text)
    unit = parts.group(2).lower() if parts else ""
    size = _MILLIS.get(unit) or _MILLIS.get(unit.removesuffix("s")) if unit else 1
    if parts is None or size is None:
        raise SqlError(f"'{text}' is no duration", hint="write a number and a unit: 90 s, 15 min, 2 h, 35 d")
    return int(parts.group(1)) * size
