"""Encoders write byte for byte what their twins write: every type, NULLs, escapes, slices, nested types, every option."""

from __future__ import annotations

import itertools
import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.connectors.formats.csv import syntax_of
from forebay.connectors.formats.rendering import Style
from forebay.engine.batch import Batch
from tests.formats import twins
from tests.formats.reading import encoder

TEXTS = st.text(
    st.one_of(st.sampled_from('"\\\n\r\t\b\f\x00\x1f\x7f,;#|é€😀'), st.characters(exclude_categories=["Cs"]))
)
INT64 = st.integers(-(2**63), 2**63 - 1)


def doubles(bits: int) -> st.SearchStrategy[float]:
    """Floats of every exponent, and those with a short decimal."""
    code = "<Qd" if bits == 64 else "<If"
    of_bits = st.integers(0, 2**bits - 1).map(lambda b: struct.unpack(code[0] + code[2], struct.pack(code[:2], b))[0])
    short = st.tuples(st.integers(-(10**6), 10**6), st.integers(-12, 12)).map(lambda p: float(f"{p[0]}e{p[1]}"))
    powers = st.integers(-1074, 1023).map(lambda e: 2.0**e)
    return st.one_of(of_bits, short, st.floats(), powers if bits == 64 else short)


def decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    digits = st.integers(1, precision).flatmap(lambda p: st.integers(-(10**p) + 1, 10**p - 1))
    return digits.map(lambda u: Decimal((int(u < 0), tuple(map(int, str(abs(u)))), -scale)))


def moments(unit: str, tz: str | None = None) -> st.SearchStrategy[pa.Scalar]:
    """Any int64, mostly of years that people write."""
    second = 10 ** {"ms": 3, "us": 6, "ns": 9}[unit]
    usual = st.tuples(st.integers(-(10**10), 10**10), st.integers(0, second)).map(lambda p: p[0] * second + p[1])
    return st.one_of(usual.filter(lambda v: abs(v) < 2**63), INT64).map(lambda v: pa.scalar(v, pa.timestamp(unit, tz)))


def scalars(kind: pa.DataType, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values.map(lambda v: pa.scalar(v).cast(kind))


SIMPLE: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), st.one_of(INT64, st.integers(0, 18).map(lambda k: 10**k))),
    (pa.float32(), doubles(32)),
    (pa.float64(), doubles(64)),
    (pa.decimal128(10, 2), decimals(10, 2)),
    (pa.decimal128(12, 8), decimals(12, 8)),
    (pa.decimal128(38, 0), decimals(38, 0)),
    (pa.decimal128(38, 20), decimals(38, 20)),
    (pa.decimal128(38, 38), decimals(38, 38)),
    (pa.string(), TEXTS),
    (pa.binary(), st.binary(max_size=9)),
    (pa.date32(), st.one_of(st.dates(), st.integers(-(2**31), 2**31 - 1).map(lambda d: pa.scalar(d, pa.date32())))),
    (pa.time32("ms"), st.integers(0, 86_399_999).map(lambda t: pa.scalar(t, pa.time32("ms")))),
    (pa.timestamp("ms"), moments("ms")),
    (pa.timestamp("us"), moments("us")),
    (pa.timestamp("ns"), moments("ns")),
    (pa.timestamp("ms", "UTC"), moments("ms", "UTC")),
    (pa.timestamp("ns", "UTC"), moments("ns", "UTC")),
    (pa.null(), st.none()),
]


def column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """A column that begins in the midst of its buffers."""
    plain = [v.as_py() if isinstance(v, pa.Scalar) and not pa.types.is_temporal(kind) else v for v in values]
    array = pa.array(plain, kind)
    return pa.concat_arrays([array.slice(0, min(3, len(array))), array]).slice(min(3, len(array)))


JSON_OPTIONS = [
    {"timestamp_format__standard": s, "encode__decimal_as_plain_number": p, "encode__ignore_null_fields": n}
    for s, p, n in itertools.product(("SQL", "ISO-8601"), ("false", "true"), ("false", "true"))
]


def style(options: dict[str, str]) -> Style:
    iso, plain, skip = (v in ("ISO-8601", "true") for v in options.values())
    return Style(iso, plain, skip)


def check(batch: Batch, options: dict[str, str], names: list[str]) -> None:
    for name in names:
        written = encoder(name, batch.schema, **options).encode(batch)
        written.validate(full=True)
        assert written.to_pylist() == twins.json_messages(name, batch, style(options)).to_pylist()


@pytest.mark.parametrize(("kind", "values"), SIMPLE, ids=[str(k) for k, _ in SIMPLE])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_type(kind: pa.DataType, values: st.SearchStrategy[Any], data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 20))
    drawn = data.draw(st.lists(st.one_of(values, st.none()), min_size=n, max_size=n))
    columns = [column(kind, drawn), column(pa.int8(), [1] * n), column(kind, drawn[::-1])]
    batch = Batch(pa.RecordBatch.from_arrays(columns, names=["a", 'b"\n', "é"]))
    check(batch, data.draw(st.sampled_from(JSON_OPTIONS)), ["json"])


NESTED = pa.schema(
    [
        ("i", pa.int64()),
        ("a", pa.list_(pa.string())),
        ("aa", pa.list_(pa.list_(pa.float64()))),
        ("m", pa.map_(pa.string(), pa.struct([("x", pa.bool_()), ("y", pa.binary())]))),
        ("r", pa.struct([("x", pa.timestamp("ms")), ("a", pa.list_(pa.decimal128(12, 8))), ("e", pa.struct([]))])),
        ("s", pa.string()),
    ]
)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


MAPS = st.dictionaries(
    TEXTS, optional(st.fixed_dictionaries({"x": optional(st.booleans()), "y": st.binary(max_size=4)}))
)
ROWS = st.fixed_dictionaries(
    {
        "x": optional(st.datetimes().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000))),
        "a": optional(st.lists(optional(decimals(12, 8)), max_size=3)),
        "e": optional(st.just({})),
    }
)
NESTED_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "i": optional(INT64),
            "a": optional(st.lists(optional(TEXTS), max_size=3)),
            "aa": optional(st.lists(optional(st.lists(optional(st.floats()), max_size=2)), max_size=3)),
            "m": optional(MAPS.map(lambda m: list(m.items()))),
            "r": optional(ROWS),
            "s": optional(TEXTS),
        }
    ),
    max_size=12,
)


@settings(max_examples=80, deadline=None)
@given(NESTED_ROWS, st.data())
def test_nested_rows_and_every_envelope(values: list[dict[str, Any]], data: st.DataObject) -> None:
    given_rows = pa.RecordBatch.from_pylist(values, NESTED).slice(data.draw(st.integers(0, 3)))
    weights = data.draw(st.lists(st.sampled_from([1, -1]), min_size=given_rows.num_rows, max_size=given_rows.num_rows))
    options = data.draw(st.sampled_from(JSON_OPTIONS))
    check(Batch(given_rows), options, ["json", "debezium-json"])
    check(Batch(given_rows, np.array(weights, np.int64)), options, list(twins.ENVELOPES))


def test_nulls_that_cover_values() -> None:
    """Arrow leaves the slots of NULLs undefined: lists may have elements there, strings characters."""
    null = pa.py_buffer(b"\x05")
    offsets = pa.py_buffer(np.array([0, 1, 3, 4], np.int32))
    text = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b'a""b'), null)
    listed = pa.ListArray.from_buffers(pa.list_(pa.int64()), 3, [null, offsets], children=[pa.array([1, 2, 3, 4])])
    rows = pa.RecordBatch.from_arrays([text, listed, listed.slice(1, 2).cast(listed.type).take([1, 0, 1])], list("abc"))
    for options in JSON_OPTIONS:
        check(Batch(rows), options, ["json", "canal-json"])


def test_no_columns_and_no_rows() -> None:
    nothing = pa.RecordBatch.from_struct_array(pa.array([{}, {}], pa.struct([])))
    assert encoder("json", nothing.schema).encode(Batch(nothing)).to_pylist() == [b"{}", b"{}"]
    empty = pa.RecordBatch.from_pylist([], NESTED)
    for name in ("json", "canal-json", "ods-json"):
        assert encoder(name, NESTED).encode(Batch(empty)).to_pylist() == []


ODS_OPTIONS: list[dict[str, str]] = [
    {},
    {"database_name": 'shop"', "table_name": "orders", "event_time_column": "t"},
    {"event_time_column": "t", "encode__ignore_null_fields": "true"},
]


@pytest.mark.parametrize("options", ODS_OPTIONS, ids=["bare", "named", "skipping"])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(optional(st.datetimes()), optional(TEXTS), st.sampled_from([1, -1])), max_size=9))
def test_ods_messages(options: dict[str, str], values: list[tuple[Any, Any, int]]) -> None:
    columns = [pa.array([v[i] for v in values], t) for i, t in enumerate((pa.timestamp("us"), pa.string()))]
    schema = pa.schema([("t", pa.timestamp("us")), ("s", pa.string())])
    batch = Batch(pa.RecordBatch.from_arrays(columns, schema=schema), np.array([v[2] for v in values], np.int64))
    written = encoder("ods-json", schema, **options).encode(batch).to_pylist()
    assert written == twins.ods_messages(batch, options).to_pylist()


CSV = pa.schema(
    [
        ("s", pa.string()),
        ("d", pa.float64()),
        ("n", pa.decimal128(12, 8)),
        ("t", pa.timestamp("ms")),
        ("raw", pa.binary()),
        ("a", pa.list_(pa.string())),
        ("r", pa.struct([("x", pa.int64()), ("y", pa.string())])),
    ]
)
CSV_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "s": optional(TEXTS),
            "d": optional(st.floats()),
            "n": optional(decimals(12, 8)),
            "t": optional(st.datetimes().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000))),
            "raw": optional(st.binary(max_size=5)),
            "a": optional(st.lists(optional(TEXTS), max_size=3)),
            "r": optional(st.fixed_dictionaries({"x": optional(INT64), "y": optional(TEXTS)})),
        }
    ),
    max_size=9,
)
CSV_OPTIONS: list[dict[str, str]] = [
    {},
    {"null_literal": "\\N,", "array_element_delimiter": "--"},
    {"field_delimiter": "|", "escape_character": "\\"},
    {"disable_quote_character": "true", "escape_character": "\\", "field_delimiter": "0"},
    {"disable_quote_character": "true"},
    {"quote_character": "'", "field_delimiter": "-"},
]


@pytest.mark.parametrize("options", CSV_OPTIONS, ids=["plain", "nulls", "escaped", "unquoted", "neither", "dashes"])
@settings(max_examples=25, deadline=None)
@given(CSV_ROWS, st.integers(0, 3))
def test_csv_lines(options: dict[str, str], values: list[dict[str, Any]], skipped: int) -> None:
    batch = Batch(pa.RecordBatch.from_pylist(values, CSV).slice(skipped))
    defaults = {"field-delimiter": ",", "quote-character": '"', "array-element-delimiter": ";"}
    syntax = syntax_of(defaults | {k.replace("_", "-"): v for k, v in options.items()})
    written = encoder("csv", CSV, **options).encode(batch)
    written.validate(full=True)
    assert written.to_pylist() == twins.csv_lines(batch, syntax).to_pylist()
