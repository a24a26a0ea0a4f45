"""Records damaged at random: whatever the damage, a batch gives what its records give one by one, and nothing raises."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pytest

from tests.formats.reading import decoder, one_at_a_time, together
from tests.formats.test_agreement import SCHEMA
from tests.formats.test_broken import good
from tests.formats.test_changes import LIFE

FULL = {
    "b": True,
    "i8": -7,
    "i": 123456789012,
    "f": 1.5,
    "d": -2.25e3,
    "n": 12.34,
    "s": 'é "x" \\ \n',
    "raw": "YWJj",
    "day": "2024-02-29",
    "t": "12:34:56.789",
    "ts": "2024-01-31 12:00:00.123",
    "tz": "2024-01-31T12:00:00.123456Z",
    "a": [1, None, 3],
    "r": {"x": 1, "y": "2024-01-31 12:00:00"},
    "z": {"deep": [{"x": 1}]},
}
PIECES = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"0",
    b"-",
    b".",
    b"e5",
    b"null",
    b"true",
    b"NaN",
    b"Inf",
    b"\\",
    b"\\ud800",
]
PIECES += [
    b"\n",
    b"\r",
    b"\x00",
    b"\xff",
    b"\xc3",
    b" ",
    b"99999999999",
    b'"s":',
    b'"a":1,',
    b"/**/",
    b"x",
    b"\xef\xbb\xbf",
]


def damaged(rng: random.Random, value: bytes) -> bytes:
    """The record with one to three small wounds."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(value) + 1)
        match rng.randrange(4):
            case 0:
                value = value[:at] + rng.choice(PIECES) + value[at:]
            case 1:
                value = value[:at] + value[at + rng.randint(1, 3) :]
            case 2:
                value = value[:at] + rng.choice(PIECES) + value[at + 1 :]
            case _:
                to = rng.randrange(len(value) + 1)
                value = value[:at] + value[to : to + 4] + value[at:]
    return value


def batches(seed: int, whole: list[bytes], wounded: int) -> list[bytes | None]:
    rng = random.Random(seed)
    values: list[bytes | None] = [rng.choice(whole) for _ in range(60)]
    for _ in range(wounded):
        values.insert(rng.randrange(len(values)), damaged(rng, rng.choice(whole)))
    return values


@pytest.mark.parametrize("seed", range(40))
def test_damaged_json(seed: int) -> None:
    values = batches(seed, [json.dumps(FULL, ensure_ascii=False).encode(), b'{"i":1}', good(3)], seed % 4 + 1)
    made = decoder("json", SCHEMA)
    assert together(made, values) == one_at_a_time(made, values)


@pytest.mark.parametrize("name", LIFE)
@pytest.mark.parametrize("seed", range(10))
def test_damaged_changes(name: str, seed: int) -> None:
    values = batches(seed, [json.dumps(e).encode() for e in LIFE[name]], seed % 4 + 1)
    made = decoder(name, pa.schema([("id", pa.int64()), ("s", pa.string())]))
    assert together(made, values) == one_at_a_time(made, values)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_lines(seed: int) -> None:
    values = batches(seed, [b'1,a,"b,c"', b"2,,x", b"-3,text,2024-01-31"], seed % 4 + 1)
    made = decoder("csv", pa.schema([("i", pa.int32()), ("s", pa.string()), ("t", pa.string())]))
    assert together(made, values) == one_at_a_time(made, values)
