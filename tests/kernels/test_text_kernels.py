"""Kernels that write text against Python's own: str, repr, Decimal, datetime, base64, and lines against the csv module."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.connectors.formats.fragments import NOTHING, Template, Text, assemble
from forebay.connectors.formats.separated import Splitter
from forebay.kernels import digits, strings, times


def written(kernel: Any, n: int, *arguments: Any, null: npt.NDArray[np.uint8] = NOTHING) -> list[str]:
    """The texts that a kernel writes."""
    out, starts = np.zeros((n + 1) * digits.WIDTH, np.uint8), np.zeros(n + 1, np.int32)
    kernel(*arguments, null, out, starts)
    return [out[a:b].tobytes().decode() for a, b in pairwise(starts)]


INTEGERS = [0, 1, -1, 2**63 - 1, -(2**63), *[s * (10**k + d) for k in range(19) for d in (-1, 0, 1) for s in (1, -1)]]


def test_integers() -> None:
    values = np.array(INTEGERS)
    assert written(digits.integer_text, len(values), values) == [str(v) for v in INTEGERS]
    null = (np.arange(len(values)) % 3 == 0).astype(np.uint8)
    expected = ["" if i % 3 == 0 else str(v) for i, v in enumerate(INTEGERS)]
    assert written(digits.integer_text, len(values), values, null=null) == expected


def naive_float(text: str) -> str:
    """repr in other clothes: plain from 1e-6 up to 1e10."""
    sign, digits_, exponent = Decimal(text).normalize().as_tuple()
    count, minus = len(digits_), "-" if sign else ""
    assert isinstance(exponent, int)
    scientific = count + exponent - 1
    if not any(digits_):
        return minus + "0.0"
    if -6 <= scientific < 10:
        plain = format(Decimal(text), "f")
        return plain.rstrip("0") + ("0" if plain.rstrip("0").endswith(".") else "") if "." in plain else plain + ".0"
    point = "." if count > 1 else ""
    return f"{minus}{digits_[0]}{point}{''.join(map(str, digits_[1:]))}e{scientific:+d}"


def numbers(seed: int) -> npt.NDArray[np.float64]:
    random = np.random.default_rng(seed)
    of_bits = random.integers(0, 2**64, 4000, np.uint64).view(np.float64)
    powers = np.ldexp(1.0, np.arange(-1074, 1024))
    short = [float(f"{d}e{k}") for d in (1, 7, 25, 123456789, 9007199254740993) for k in range(-340, 310)]
    near = [np.nextafter(powers, 0), np.nextafter(powers, np.inf)]
    found = np.concatenate([of_bits, powers, *near, short, random.random(2000), np.round(random.random(2000) * 1e6, 2)])
    return found[np.isfinite(found)]


@pytest.mark.parametrize("seed", range(3))
def test_floats(seed: int) -> None:
    values = np.concatenate([numbers(seed), [0.0, -0.0, -1.5]])
    assert written(digits.float_text, len(values), values.view(np.uint64), 52, True) == [
        naive_float(repr(v)) for v in values.tolist()
    ]
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    single = single[np.isfinite(single)]
    bits = single.view(np.uint32).astype(np.uint64)
    assert written(digits.float_text, len(single), bits, 23, True) == [naive_float(str(v)) for v in single]
    special = np.array([np.nan, np.inf, -np.inf]).view(np.uint64)
    assert written(digits.float_text, 3, special, 52, False) == ["NaN", "Infinity", "-Infinity"]


@given(st.lists(st.integers(-(10**38) + 1, 10**38 - 1)), st.integers(0, 38))
def test_decimals(unscaled: list[int], scale: int) -> None:
    words = [np.array([u % 2**128 >> shift & 2**64 - 1 for u in unscaled], np.uint64) for shift in (0, 64)]
    values = [Decimal((int(u < 0), tuple(map(int, str(abs(u)))), -scale)) for u in unscaled]
    assert written(digits.decimal_text, len(values), *words, scale, False) == [str(v) for v in values]
    assert written(digits.decimal_text, len(values), *words, scale, True) == [format(v, "f") for v in values]


@given(st.lists(st.datetimes(), max_size=20))
def test_times(values: list[dt.datetime]) -> None:
    epoch, micro = dt.datetime(1970, 1, 1), dt.timedelta(microseconds=1)
    moments = np.array([(v - epoch) // micro for v in values], np.int64)
    texts = written(times.time_text, len(values), moments, 6, True, True, ord("T"), True)
    fractions = [v.isoformat(timespec="microseconds").rstrip("0").rstrip(".") for v in values]
    expected = [t if v.microsecond else v.isoformat(timespec="seconds") for v, t in zip(values, fractions)]
    assert texts == [t + "Z" for t in expected]
    days = np.array([(v.date() - epoch.date()).days for v in values], np.int64)
    assert written(times.time_text, len(values), days, 0, True, False, 0, False) == [str(v.date()) for v in values]
    clock = moments % 86_400_000_000
    assert written(times.time_text, len(values), clock, 6, False, True, 0, False) == [t[11:] for t in expected]


@given(st.lists(st.text(st.one_of(st.sampled_from('"\\\n\x00\x1f\x7f'), st.characters(exclude_categories=["Cs"])))))
def test_strings(values: list[str]) -> None:
    encoded = [v.encode() for v in values]
    data = np.frombuffer(b"".join(encoded) + b"\0", np.uint8)
    ends = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
    for kernel, expected in (
        (strings.escape, [json.dumps(v, ensure_ascii=False)[1:-1] for v in values]),
        (strings.base64, [base64.b64encode(v).decode() for v in encoded]),
    ):
        out, starts = np.zeros(8 * len(data) + 4 * len(values), np.uint8), np.zeros(len(values) + 1, np.int32)
        kernel(data, ends[:-1], ends[1:], NOTHING, out, starts)
        assert [out[a:b].tobytes().decode() for a, b in pairwise(starts)] == expected


TEXTS = st.one_of(st.none(), st.binary(max_size=70))


@given(st.lists(st.tuples(TEXTS, TEXTS, st.booleans()), max_size=20), st.booleans(), st.binary(max_size=40))
def test_assemble(rows: list[tuple[bytes | None, bytes | None, bool]], skip: bool, label: bytes) -> None:
    columns = []
    for k, brackets in ((0, b""), (1, b"[]")):
        values = [row[k] for row in rows]
        data = np.frombuffer(b"".join(v or b"" for v in values) or b"\0", np.uint8)
        ends = np.cumsum([0, *(len(v or b"") for v in values)]).astype(np.int32)
        columns.append(Text.of(data, ends, np.array([v is None for v in values], np.uint8), brackets))
    template = Template([b"," + label, b",b:"], (b"<", b">"), (b"(", b")"), b"null", 1, skip)
    data, offsets = assemble(template, columns, len(rows), np.array([row[2] for row in rows], np.uint8))
    expected = []
    for a, b, marked in rows:
        members = [(label, a), (b"b:", None if b is None else b"[" + b + b"]")]
        body = b",".join(n + (b"null" if v is None else v) for n, v in members if v is not None or not skip)
        expected.append(b"(" + body + b")" if marked else b"<" + body + b">")
    assert [data[a:b].tobytes() for a, b in pairwise(offsets)] == expected


CHARACTERS = st.text(st.sampled_from('ab,,,""\\\n\r#é€'), max_size=12)


@pytest.mark.parametrize("escape", [None, "\\"])
@settings(max_examples=300)
@given(st.lists(CHARACTERS, max_size=20))
def test_lines_are_split_as_the_csv_module_does(escape: str | None, lines: list[str]) -> None:
    splitter = Splitter([pa.string()] * 3, (ord(","), ord('"'), ord(escape) if escape else -1, -1), None)
    scan = splitter.scan(pa.array([line.encode() for line in lines], pa.binary()))
    fields = [
        [scan.data[s >> 32 :][: s >> 4 & 0xFFFFFFF].tobytes().decode() for s in scan.spans_of(k, 0).tolist()]
        for k in range(3)
    ]
    for row, r in enumerate(scan.record.tolist()):
        split = list(csv.reader([lines[r]], strict=True, escapechar=escape))
        assert split == [[column[row] for column in fields]]
    for r in set(range(len(lines))) - set(scan.record.tolist()):
        assert set('"\\\n\r') & set(lines[r]) or lines[r].count(",") != 2
