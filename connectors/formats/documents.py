"""One JSON record, read exactly: the reference that the columnar reader must agree with.

Numbers keep their text (`Number`) unless they are integers of up to 18 digits, so that no decimal passes through a float.
Of duplicate keys the last one wins, as in Jackson. A record nested deeper than `MAX_DEPTH` is malformed. A UTF-8 byte order
mark and white space around the document are accepted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import orjson

MAX_DEPTH = 500
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_BOM = b"\xef\xbb\xbf"


class Malformed(ValueError):
    """A record, or a value in it, that cannot be read. The message is the reason that the user sees."""


class Number(str):
    """A JSON number as it was written: with a fraction or an exponent, or of more than 18 digits."""

    __slots__ = ()


class Literal(str):
    """NaN, Infinity or -Infinity: no JSON, but met in the wild; no column takes them unquoted."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Instant:
    """A number whose unit is known from elsewhere: nanoseconds since 1970, or of the day, and the number as it was."""

    nanos: int
    written: int

    def __str__(self) -> str:
        return str(self.written)


def _integer(text: str) -> int | Number:
    return int(text) if len(text) <= 18 else Number(text)


_DECODER = json.JSONDecoder(parse_float=Number, parse_int=_integer, parse_constant=Literal)


def parse(value: bytes) -> Any:
    """The document of a record: None, bool, int, Number, Literal, str, list or dict.

    Raises:
        Malformed: no UTF-8, no JSON, more than one document, or nested too deeply.
    """
    if value.startswith(_BOM):
        value = value[3:]
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"invalid UTF-8 at byte {error.start}") from None
    if len(text) > 2 * MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text)
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        reason = "the record is empty" if not text.strip() else f"invalid JSON: {error.msg} at character {error.pos}"
        raise Malformed(reason) from None
    except RecursionError:
        raise Malformed("nested too deeply") from None


def parse_object(value: bytes) -> dict[str, Any]:
    """The document of a record that must be an object.

    Raises:
        Malformed: as `parse`, or it is no object.
    """
    document = parse(value)
    if not isinstance(document, dict):
        raise Malformed(f"expected a JSON object, found {kind(document)}")
    return document


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TOKENS.finditer(text):
        mark = text[token.start()]
        if mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Malformed(f"nested deeper than {MAX_DEPTH} levels")
        elif mark != '"':
            depth -= 1


def kind(value: Any) -> str:
    """The JSON kind of a value, with its article, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | Number() | Instant():
            return "a number"
        case Literal():
            return str(value)
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"


def text_of(value: Any) -> str:
    """A value as compact JSON, numbers as they were written.

    Raises:
        Malformed: it holds NaN, Infinity or half of a surrogate pair.
    """
    try:
        return orjson.dumps(value, default=_fragment, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()
    except (TypeError, ValueError):  # deeper than orjson goes, or what the slow way names
        text = _slow_text(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed("a string holds half of a surrogate pair") from None
    return text


def _fragment(value: Any) -> orjson.Fragment:
    if isinstance(value, Number | Instant):
        return orjson.Fragment(str(value).encode())
    raise TypeError


def _slow_text(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Literal():
            raise Malformed(f"{value} is no JSON")
        case Number() | Instant() | int():
            return str(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return "[" + ",".join(map(_slow_text, value)) + "]"
    return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{_slow_text(v)}" for k, v in value.items()) + "}"
