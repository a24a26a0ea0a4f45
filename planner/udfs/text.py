"""Functions on strings and binary data."""

from __future__ import annotations

import base64
import binascii
import hashlib
from urllib.parse import parse_qs, quote_plus, unquote_plus, urlsplit

import pyarrow as pa

from forebay.planner.udfs import ArrowFunction, per_row

_S, _I, _L = pa.string(), pa.int32(), pa.int64()


def split_index(text: str, separator: str, index: int) -> str | None:
    """The part at `index`, from 0, of the text split by the separator; None beyond the last."""
    parts = text.split(separator) if separator else [text]
    return parts[index] if 0 <= index < len(parts) else None


def locate(part: str, text: str, start: int) -> int:
    """Position from 1 of `part` at or after `start`; 0 if it is not there."""
    return text.find(part, max(start, 1) - 1) + 1


def from_base64(text: str) -> str | None:
    """The decoded text; None if it is no base64 of UTF-8."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def str_to_map(text: str, entries: str, pair: str) -> list[tuple[str, str | None]]:
    """Key-value pairs of a text such as 'a=1,b=2'; the last of equal keys counts."""
    found: dict[str, str | None] = {}
    for entry in text.split(entries):
        key, separator, value = entry.partition(pair)
        found[key] = value if separator else None
    return list(found.items())


_URL_PARTS = {"HOST": "hostname", "PATH": "path", "QUERY": "query", "REF": "fragment", "PROTOCOL": "scheme"}


def parse_url(url: str, part: str) -> str | None:
    """A part of a URL by Flink's name for it; None if it is absent or the URL is malformed."""
    try:
        split = urlsplit(url)
        if part == "AUTHORITY":
            return split.netloc or None
        if part == "FILE":
            return (split.path + ("?" + split.query if split.query else "")) or None
        if part == "USERINFO":
            return split.netloc.rpartition("@")[0] or None
        name = _URL_PARTS.get(part)
        value = getattr(split, name) if name else None
        return str(value) if value else None
    except ValueError:
        return None


def parse_url_query(url: str, part: str, key: str) -> str | None:
    """The value of a parameter of the URL's query; `part` is QUERY."""
    query = parse_url(url, part)
    values = parse_qs(query).get(key) if query and part == "QUERY" else None
    return values[0] if values else None


TEXT_FUNCTIONS = (
    ArrowFunction("split_index", (_S, _S, _I), _S, per_row(split_index, _S)),
    ArrowFunction("locate", (_S, _S, _I), _I, per_row(locate, _I)),
    ArrowFunction("to_base64", (_S,), _S, per_row(lambda s: base64.b64encode(s.encode()).decode(), _S)),
    ArrowFunction("from_base64", (_S,), _S, per_row(from_base64, _S)),
    ArrowFunction("sha1", (_S,), _S, per_row(lambda s: hashlib.sha1(s.encode()).hexdigest(), _S)),
    ArrowFunction("str_to_map", (_S, _S, _S), pa.map_(_S, _S), per_row(str_to_map, pa.map_(_S, _S))),
    ArrowFunction("parse_url", (_S, _S), _S, per_row(parse_url, _S)),
    ArrowFunction("parse_url_query", (_S, _S, _S), _S, per_row(parse_url_query, _S)),
    ArrowFunction("url_encode", (_S,), _S, per_row(quote_plus, _S)),
    ArrowFunction("url_decode", (_S,), _S, per_row(unquote_plus, _S)),
)
