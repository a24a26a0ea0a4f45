"""The kernels that read JSON against naive twins: Python's json, float, Decimal, datetime and plain loops."""

from __future__ import annotations

import base64 as base64_module
import datetime as dt
import json
import random
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.connectors.formats import shape
from forebay.connectors.formats.fetch import Choice, Fetch
from forebay.connectors.formats.shape import Shape
from forebay.connectors.formats.values import Rules

if numba.config.DISABLE_JIT:
    pytest.skip("built on raw addresses", allow_module_level=True)

from forebay.kernels import json_scan, json_values

settings.register_profile("kernels", deadline=None)
settings.load_profile("kernels")
RANDOM = random.Random(3)


def read(type_: pa.DataType, values: list[str], epochs: bool = False) -> tuple[list[Any], list[bool]]:
    """Values of a column by its kernel, and which of them it leaves."""
    made = Shape(pa.struct([("c", type_)]))
    scan = made.scan(pa.array([f'{{"c":{v}}}'.encode() for v in values], pa.binary()))
    assert len(scan.record) == len(values)
    bad = np.zeros(len(values), np.uint8)
    column = Fetch(scan, Rules(epochs=epochs)).column(made.root["c"], bad)
    column.validate(full=True)
    return column, (bad > 0).tolist()


def agree(column: pa.Array, left: list[bool], expected: list[Any], most: float = 0.0) -> None:
    found = column.to_pylist()
    assert [f for f, gone in zip(found, left) if not gone] == [e for e, gone in zip(expected, left) if not gone]
    assert sum(left) <= most * len(left)


def test_constants_are_the_same_on_both_sides() -> None:
    for name in (
        "NULL",
        "STRING",
        "ESCAPED",
        "INTEGER",
        "NUMBER",
        "TRUE",
        "FALSE",
        "OBJECT",
        "ARRAY",
        "LIST",
        "LONGEST",
    ):
        assert getattr(shape, name) == getattr(json_scan, name)
    assert (shape._CHILD, shape._ELEMENT) == (json_scan.CHILD, json_scan.ELEMENT)


def plain(text: bytes) -> bool:
    """Whether the record is one object that Python's own reader takes."""

    def refuse(_: str) -> None:
        raise ValueError

    try:
        return isinstance(json.loads(text.decode(), parse_constant=refuse), dict) and not text.startswith(
            b"\xef\xbb\xbf"
        )
    except ValueError:
        return False


PIECES = [
    b'{"a":',
    b'"',
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"1",
    b"-",
    b".5",
    b"e7",
    b"0",
    b"null",
    b"true",
    b"false",
    b"\\n",
]
PIECES += [
    b"\\u00e9",
    b"\\",
    b"\xc3\xa9",
    b"\xf0\x9f\x98\x80",
    b"\xe2\x82",
    b"\x1f",
    b" ",
    b"\n",
    b'"x"',
    b'"long text here"',
]


def test_scan_takes_what_python_takes() -> None:
    records = [b"{}", b'{"a":1}'] * 8
    for _ in range(20_000):
        middle = b"".join(RANDOM.choices(PIECES, k=RANDOM.randint(0, 7)))
        records.append(b'{"a":' + middle + b"}" if RANDOM.random() < 0.8 else middle)
    found = Shape(pa.struct([])).scan(pa.array(records, pa.binary()))
    assert (found.state == json_scan.READ).tolist() == [plain(r) for r in records]
    assert found.record.tolist() == [i for i, r in enumerate(records) if plain(r)]


@settings(max_examples=30)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)))
def test_spans_are_the_text_of_values(value: Any) -> None:
    names = ["a", "longer name", "é"]
    wanted = pa.struct([(n, pa.null()) for n in names])
    text = json.dumps({"é": value, "other": [value], "a": 1, "longer name": value}, ensure_ascii=False).encode()
    made = Shape(wanted)
    for _ in range(2):
        scan = made.scan(pa.array([text, b"{}", text], pa.binary()))
        for name, expected in (("é", value), ("longer name", value), ("a", 1)):
            first, absent, last = scan.spans(made.root[name]).tolist()
            assert absent == 0
            for span in (first, last):
                start, size = span >> 32, span >> 4 & json_scan.LONGEST
                inside = scan.data[start : start + size].tobytes().decode()
                quoted = f'"{inside}"' if span & 15 in (json_scan.STRING, json_scan.ESCAPED) else inside
                assert json.loads(quoted) == expected
        made.learn(json.loads(text))


def test_arrays_have_rows_of_their_own() -> None:
    lists = [RANDOM.choice([None, [], [1], [[], [2, None]], [3] * 40]) for _ in range(500)]
    nested = [None if v is None else [e if isinstance(e, list) else [e] for e in v] for v in lists]
    column, left = read(pa.list_(pa.list_(pa.int64())), [json.dumps(v) for v in nested])
    agree(column, left, nested)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_integers(bits: int) -> None:
    bound = 1 << bits - 1
    numbers = [
        0,
        bound - 1,
        -bound,
        *[RANDOM.randint(-bound, bound - 1) >> RANDOM.randrange(bits) for _ in range(2000)],
    ]
    values = [str(n) if RANDOM.random() < 0.5 else f'"{n}"' for n in numbers]
    agree(*read(getattr(pa, f"int{bits}")(), values), numbers)
    outside = [str(bound), str(-bound - 1), "1.0", '"1 "', '""', '"-"', "true", "{}", '"1e2"', str(10**25)]
    assert all(read(getattr(pa, f"int{bits}")(), outside)[1])


def test_booleans() -> None:
    values = ["true", "false", '"true"', '"False"', "1", "0", '"1"', "null", '"TRUE"', '"yes"', "2", "1.0"]
    column, left = read(pa.bool_(), values)
    assert column.to_pylist()[:9] == [True, False, True, False, True, False, True, None, True]
    assert left == [False] * 9 + [True] * 3


def test_floats_are_the_nearest() -> None:
    texts = [repr(np.frombuffer(RANDOM.randbytes(8))[0].item()) for _ in range(4000)]
    texts += [f"{RANDOM.randrange(10**19)}e{RANDOM.randint(-340, 308)}" for _ in range(4000)]
    texts += [str((RANDOM.randrange(1 << 52, 1 << 53) * 2 + 1) << RANDOM.randrange(8)) for _ in range(2000)]
    texts = [t for t in texts if "n" not in t]
    column, left = read(pa.float64(), texts)
    agree(column, left, [float(t) for t in texts], 0.05)
    column, left = read(pa.float32(), texts[-2000:])
    agree(column, left, pa.array(texts[-2000:]).cast(pa.float32()).to_pylist(), 0.05)
    column, left = read(pa.float64(), ["-0.0", "0.0", "-0", "1.", '"-1.5"'][:3])
    assert str(column.to_pylist()[:2]) == "[-0.0, 0.0]" and left == [False, False, True]


@pytest.mark.parametrize(("precision", "scale"), [(10, 2), (18, 0), (38, 18), (38, 38), (5, 5)])
def test_decimals_round_half_up(precision: int, scale: int) -> None:
    texts = [f"{RANDOM.choice(['', '-'])}{RANDOM.randrange(10 ** RANDOM.randint(1, 12))}" for _ in range(1000)]
    texts += [f"{t}.{RANDOM.randrange(10 ** RANDOM.randint(1, 7))}" for t in texts]
    texts += [f"{t}e{RANDOM.randint(-9, 9)}" for t in texts[:500]]
    column, left = read(pa.decimal128(precision, scale), texts)
    quantum, limit = Decimal(1).scaleb(-scale), Decimal(10) ** (precision - scale)
    for found, gone, text in zip(column.to_pylist(), left, texts):
        exact = Decimal(text).quantize(quantum, context=Context(prec=100, rounding=ROUND_HALF_UP))
        assert gone or (found == exact and abs(exact) < limit)
    assert sum(left) < len(left) or precision == scale


def test_texts() -> None:
    alphabet = ["a", "bc", '"', "\\", "\n", "\x00", "é", "€", "😀", "/", "a long run of plain text "]
    strings = ["".join(RANDOM.choices(alphabet, k=RANDOM.randint(0, 6))) for _ in range(2000)]
    values = [json.dumps(s, ensure_ascii=RANDOM.random() < 0.5) for s in strings]
    agree(*read(pa.string(), values), strings)
    others = ["1", "1.50", "true", "null", '"\\ud800"', '"\\udc00"', '"\\ud83dx"', "{}", "[]", "-0"]
    column, left = read(pa.string(), others)
    assert column.to_pylist()[:4] == ["1", "1.50", "true", None] and left == [False] * 4 + [True] * 3 + [False] * 2 + [
        True
    ]


def test_documents_as_text() -> None:
    documents: list[Any] = [{"a": [1, {"b": "x y", "é": []}], "c": {}}, [], [[["deep"]], None, True]]
    documents += [{"k" * i: i for i in range(9)}, {f"name {i}": '\n"\\' for i in range(200)}]
    documents += [{"same": {"same": 1}, "other": {"same": 2}}]
    values = [json.dumps(d, ensure_ascii=False, indent=RANDOM.choice([None, 2])) for d in documents * 20]
    agree(
        *read(pa.string(), values), [json.dumps(d, ensure_ascii=False, separators=(",", ":")) for d in documents * 20]
    )
    kept = ['{"a":-0.0}', "[1E5,-0e1,123456789012345678901]"]
    agree(*read(pa.string(), kept), kept)
    given_up = [
        '{"a":1,"a":2}',
        '{"a":-0}',
        "[ -0]",
        '["\\u0061"]',
        '["\\/"]',
        json.dumps({str(i): i for i in range(300)}),
    ]
    assert all(read(pa.string(), given_up)[1])


def test_bytes() -> None:
    values = [RANDOM.randbytes(RANDOM.randint(0, 20)) for _ in range(1000)]
    agree(*read(pa.binary(), [f'"{base64_module.b64encode(v).decode()}"' for v in values]), values)
    assert all(read(pa.binary(), ['"YQ"', '"YR=="', '"=AAA"', '"A==="', '"AA=A"', '"YWJ\\n"', "1", '"a-_a"'])[1])


def test_days_of_the_calendar() -> None:
    first = dt.date(1, 1, 1).toordinal()
    days = [dt.date.fromordinal(first + k) for k in range(0, 3_652_059, 53)]
    agree(*read(pa.date32(), [f'"{d}"' for d in days]), days)
    wrong = [
        "2023-02-29",
        "1900-02-29",
        "2024-04-31",
        "2024-00-01",
        "2024-13-01",
        "2024-01-00",
        "181r-08-20",
        "2024/01/01",
    ]
    assert all(read(pa.date32(), [f'"{d}"' for d in [*wrong, "20240101", "2024-1-01", "2024-01-01 "]])[1])


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_timestamps(unit: str) -> None:
    base = dt.datetime(1, 1, 2)
    moments = [base + dt.timedelta(microseconds=RANDOM.randrange(9998 * 365 * 86_400 * 10**6)) for _ in range(2000)]
    cut = {"s": 10**6, "ms": 1000, "us": 1}[unit]
    expected = [m.replace(microsecond=m.microsecond // cut * cut) for m in moments]
    agree(*read(pa.timestamp(unit), [f'"{m.isoformat(sep=RANDOM.choice(" T"))}"' for m in moments]), expected)
    zones = [dt.timezone(dt.timedelta(minutes=RANDOM.randint(-720, 720))) for _ in moments]
    zoned = [f'"{m.replace(tzinfo=z).isoformat()}"' for m, z in zip(moments, zones)]
    column, left = read(pa.timestamp(unit, tz="UTC"), zoned)
    instants = [m.replace(tzinfo=z).astimezone(dt.UTC) for m, z in zip(expected, zones)]
    agree(column, left, instants)


def test_epochs_and_times_of_day() -> None:
    column, left = read(pa.time32("ms"), ["86399999999", "0", "86400000000", "-1", '"23:59:59.9999"'], epochs=True)
    assert column.cast(pa.int32()).to_pylist()[:2] == [86_399_999, 0] and left == [False, False, True, True, False]
    assert read(pa.date32(), ["19000", "-1", str(1 << 31)], epochs=True)[1] == [False, False, True]
    assert read(pa.timestamp("ms"), ["19000"])[1] == [True]


def test_choices_of_rows() -> None:
    image = pa.struct([("x", pa.int64()), ("a", pa.list_(pa.int64()))])
    made = Shape(pa.struct([("p", image), ("q", image)]))
    rows = [{"p": {"x": i, "a": [i] * (i % 3)}, "q": {"x": -i, "a": [-i]}} for i in range(100)]
    scan = made.scan(pa.array([json.dumps(r).encode() for r in rows], pa.binary()))
    p, q = made.root["p"], made.root["q"]
    at = np.array([RANDOM.choice([1, -1]) * RANDOM.randrange(1, 99) for _ in range(300)])
    for name in ("x", "a"):
        column = Fetch(scan, Rules()).column(p[name], np.zeros(300, np.uint8), Choice(at, p.distance(q)))
        assert column.to_pylist() == [rows[k]["p"][name] if k >= 0 else rows[~k]["q"][name] for k in at.tolist()]


def test_overlay_codes_and_changes() -> None:
    spans = np.array([0, 1, 5 << 32 | 1 << 4 | json_scan.STRING], np.int64)
    at, old, out = np.array([7, 8, 9, 10]), np.array([~0, ~1, ~2, 0]), np.empty(4, np.int64)
    assert json_values.overlay(spans, at, old, out) == 2
    assert out.tolist() == [7, ~1, ~2, 10]
    values = ['"u"', '"insert"', '"delete"', '"c"', "1", "null", '"\\u0075"']
    made = Shape(pa.struct([("c", pa.string())]))
    scan = made.scan(pa.array([f'{{"c":{v}}}'.encode() for v in values], pa.binary()))
    assert scan.indices(made.root["c"], ("c", "u", "insert")).tolist() == [1, 2, -1, 0, -1, -1, -1]
    pairs = [
        ("1", "1"),
        ("1", "2"),
        ('"a"', '"b"'),
        ('"a"', '"a"'),
        ("null", "1"),
        ("1", "null"),
        ("-0", "0"),
        ("1.0", "1"),
    ]
    made = Shape(pa.struct([("b", pa.string()), ("a", pa.string())]))
    scan = made.scan(pa.array([f'{{"b":{b},"a":{a}}}'.encode() for b, a in pairs], pa.binary()))
    changed, bad = np.zeros(len(pairs), np.uint8), np.zeros(len(pairs), np.uint8)
    json_values.changed(scan.data, scan.spans(made.root["b"]), scan.spans(made.root["a"]), changed, bad)
    assert changed.tolist() == [0, 1, 1, 0, 0, 1, 0, 0] and bad.tolist() == [0] * 6 + [1, 1]
