"""Random records for all JSON formats, and a batch's outcome by kernels against that of the reference.

Values come from pools that are made once per seed: mostly what the column expects, often what is odd, at the edge, or wrong.
Records get members in any order, absent, repeated, unknown and escaped ones, white space, and now and then a wound.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.connectors.formats import batches
from forebay.connectors.records import select
from forebay.engine.batch import Batch
from forebay.engine.connector import Decoded, Decoder, Records
from tests.formats.reading import decoder, meta, records

COLUMNS: dict[str, pa.DataType] = {
    "b": pa.bool_(),
    "i8": pa.int8(),
    "i32": pa.int32(),
    "i": pa.int64(),
    "f": pa.float32(),
    "d": pa.float64(),
    "n": pa.decimal128(10, 2),
    "wide": pa.decimal128(38, 18),
    "whole": pa.decimal128(20, 0),
    "s": pa.string(),
    "naïve": pa.string(),
    "raw": pa.binary(),
    "day": pa.date32(),
    "t": pa.time32("ms"),
    "ts0": pa.timestamp("s"),
    "ts": pa.timestamp("ms"),
    "ns": pa.timestamp("ns"),
    "tz": pa.timestamp("us", tz="UTC"),
    "a": pa.list_(pa.int32()),
    "aa": pa.list_(pa.list_(pa.string())),
    "r": pa.struct([("x", pa.int64()), ("y", pa.timestamp("ms")), ("z", pa.struct([("s", pa.string())]))]),
    "ar": pa.list_(pa.struct([("x", pa.int64()), ("a", pa.list_(pa.bool_()))])),
    "m": pa.map_(pa.string(), pa.int64()),
}
FORMATS = ("json", "debezium-json", "canal-json", "maxwell-json", "ogg-json", "ods-json")
Pool = list[bytes]
_WOUNDS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b".", b"e5", b"null", b"true", b"NaN", b"Inf", b"\\"]
_WOUNDS += [
    b"\\ud800",
    b"\n",
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b" ",
    b"99999999999",
    b'"s":',
    b"x",
    b"\xef\xbb\xbf",
]


class Maker:
    """Makes records from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.odd = [v for _ in range(40) for v in self._odd()]
        self.pools = {name: self._pool(type_) for name, type_ in COLUMNS.items()}
        self.wrapped = False
        """Debezium's messages are inside {schema, payload}."""
        self._images: dict[Any, Pool] = {}
        self.names = {name: json.dumps(name, ensure_ascii=False).encode() for name in COLUMNS}

    # --- values -------------------------------------------------------------------------------------------------------

    def _text(self) -> str:
        rng = self.rng
        alphabet = rng.choice(["abc xyz", 'a"\\/\b\f\n\r\t\x7f', "aé€😀\u2028", "0123456789.eE+-", "ab{}[],:"])
        return "".join(rng.choice(alphabet) for _ in range(rng.choice([0, 1, 3, 7, 8, 9, 15, 16, 17, 40])))

    def _document(self, depth: int = 0) -> str:
        """An object, array or scalar as a STRING column may hold it."""
        rng = self.rng
        blank = rng.choice(["", "", "", " ", "\n\t"])
        match rng.randrange(3 if depth < 4 else 1):
            case 0:
                return rng.choice(
                    [self._number(), "true", "null", self._string().decode(errors="replace"), "-0", "-0.0", "1E5"]
                )
            case 1:
                return (
                    f"[{blank}"
                    + f",{blank}".join(self._document(depth + 1) for _ in range(rng.randint(0, 3)))
                    + f"{blank}]"
                )
        names = [
            rng.choice(["a", "b", "long name 1", "long name 2", "", "é", "\\n", "\\u0061"])
            for _ in range(rng.randint(0, 4))
        ]
        members = [f'"{n}"{blank}:{blank}{self._document(depth + 1)}' for n in dict.fromkeys(names)]
        return "{" + blank + f",{blank}".join(members) + "}"

    def _string(self) -> bytes:
        return json.dumps(self._text(), ensure_ascii=self.rng.random() < 0.3).encode()

    def _digits(self, most: int) -> str:
        return "".join(self.rng.choice("0123456789") for _ in range(self.rng.randint(1, most))).lstrip("0") or "0"

    def _number(self) -> str:
        rng = self.rng
        sign = rng.choice(["", "", "-"])
        match rng.randrange(7):
            case 0:
                return sign + self._digits(4)
            case 1:
                return sign + self._digits(21)
            case 2:
                return sign + self._digits(9) + "." + self._digits(10)
            case 3:
                return sign + self._digits(18) + "." + self._digits(21)
            case 4:
                return sign + self._digits(3) + rng.choice(["e", "E", "e+", "e-", ".5e"]) + self._digits(3)
            case 5:
                return repr(struct.unpack("<d", rng.randbytes(8))[0]).replace("nan", "1").replace("inf", "2")
            case _:
                bound = 2 ** rng.choice([7, 8, 15, 31, 32, 53, 63, 64]) + rng.randint(-2, 2)
                return sign + str(bound)

    def _moment(self) -> str:
        rng = self.rng
        year = rng.choice([0, 1, 1582, 1677, 1900, 1969, 1970, 2000, 2023, 2024, 2262, 9999])
        day = f"{year:04d}-{rng.choice([1, 2, 12, 13, 0]):02d}-{rng.choice([1, 28, 29, 30, 31, 32, 0]):02d}"
        clock = f"{rng.choice([0, 12, 23, 24]):02d}:{rng.choice([0, 59, 60]):02d}"
        clock += rng.choice(["", ":00", ":59", ":60", ":5", ":30", ":07"])
        clock += rng.choice(["", "", ".", ".1", ".123", ".123456", ".123456789", ".9999999999"])
        clock = rng.choice([clock, "12:34:56", "12:34:56.789", "12"])
        zone = rng.choice(["", "", "Z", "z", "+08:00", "-0130", "+05", "+24:00", "+1:00", " Z"])
        return rng.choice(
            [f"{day}{rng.choice(' T tx')}{clock}{zone}", day, clock, "2024-02-29", f"{day}Z", f"2024-01-31 {clock}"]
        )

    def _good_moment(self, type_: pa.DataType) -> str:
        rng = self.rng
        day = f"{rng.randint(1700, 2260):04d}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
        clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"
        clock += rng.choice(["", f".{rng.randrange(10**6):06d}"[: rng.randint(2, 7)]])
        if pa.types.is_date(type_) or pa.types.is_time(type_):
            return day if pa.types.is_date(type_) else clock
        return f"{day}{rng.choice(' T')}{clock}" + (rng.choice(["Z", "+05:30", "-08"]) if type_.tz else "")

    def _odd(self) -> Iterator[bytes]:
        rng = self.rng
        yield from (
            b"null",
            b"true",
            b"false",
            b"[]",
            b"{}",
            b'""',
            b"-0",
            b"-0.0",
            b"0",
            b'"-0"',
            b"01",
            b'"0x1F"',
            b'"+1"',
        )
        yield from (
            b'" 1 "',
            b'"1."',
            b'".5"',
            b'"TRUE"',
            b'"NaN"',
            b"NaN",
            b"-Infinity",
            b'"Infinity"',
            b"Inf",
            b'"\xff"',
        )
        yield from (
            b'"\\ud800"',
            b'"\\udc00x"',
            b'"\\ud83d\\ude00"',
            b'"\\uD83D\\u0041"',
            b'"\\x"',
            b'"\\u12"',
            b'"YQ=="',
            b'"YR=="',
        )
        yield from (b'"a\x01b"', b'"\xed\xa0\x80"', b'{"x":1,"x":2}', b'{"\\u0078":1}', b"[1,2,", b"[" * 60 + b"]" * 60)
        yield self._number().encode()
        yield f'"{self._number()}"'.encode()
        yield f'"{self._moment()}"'.encode()
        yield self._string()
        yield b"[" + b", ".join(rng.choice([b"1", b"-2", b"null", b'"x"']) for _ in range(rng.randint(0, 4))) + b"]"

    def _typical(self, type_: pa.DataType) -> bytes:
        rng = self.rng
        if pa.types.is_boolean(type_):
            return rng.choice([b"true", b"false", b'"true"', b'"0"', b"1"])
        if pa.types.is_integer(type_):
            number = rng.randint(-(1 << type_.bit_width - 1) - 1, 1 << type_.bit_width - 1) >> rng.choice([0, 1, 4, 8])
            return rng.choice([str(number), f'"{number}"']).encode()
        if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
            plain = f"{rng.randint(-9999, 9999) / 10 ** rng.randint(0, 6)}"
            number = rng.choice([self._number(), f"{rng.random() * 1000:.17g}", *[plain] * 18])
            return rng.choice([number, number, f'"{number}"']).encode()
        if pa.types.is_string(type_):
            return self._string() if rng.random() < 0.8 else self._document().encode()
        if pa.types.is_binary(type_):
            return rng.choice([b'""', b'"YWJj"', b'"/+8="', b'"YQ=="', b'"YWJjZGVm"'])
        if pa.types.is_temporal(type_):
            odd = [f'"{self._moment()}"', str(rng.randint(-(10**6), 10**18))]
            return rng.choice([*odd, *[f'"{self._good_moment(type_)}"'] * 30]).encode()
        if pa.types.is_list(type_):
            elements = [self._value(type_.value_type) for _ in range(rng.randint(0, 3))]
            return b"[" + b",".join(elements) + b"]"
        if pa.types.is_map(type_):
            return b"{" + b",".join(b'"k%d":%d' % (rng.randint(0, 3), k) for k in range(rng.randint(0, 3))) + b"}"
        members = [json.dumps(f.name).encode() + b":" + self._value(f.type) for f in type_ if rng.random() < 0.8]
        return b"{" + b",".join(members) + b"}"

    def _value(self, type_: pa.DataType) -> bytes:
        return (
            self._typical(type_) if self.rng.random() < 0.97 else self.rng.choice([b"null", self.rng.choice(self.odd)])
        )

    def _pool(self, type_: pa.DataType) -> Pool:
        pool = [self._typical(type_) for _ in range(300)] + [b"null"] * 20
        return pool + [self.rng.choice(self.odd) for _ in range(3)]

    def forget(self) -> None:
        """Make new rows from now on."""
        self._images.clear()

    # --- records ------------------------------------------------------------------------------------------------------

    def image(self, names: Sequence[str], full: float = 0.95) -> bytes:
        """A row as an object, one of some hundreds for these columns."""
        pool = self._images.setdefault((*names, full), [])
        if len(pool) < 400:
            pool.append(self._image_of(names, full))
            return pool[-1]
        return self.rng.choice(pool)

    def _image_of(self, names: Sequence[str], full: float) -> bytes:
        rng = self.rng
        members = [self.names[n] + b":" + rng.choice(self.pools[n]) for n in names if rng.random() < full]
        if rng.random() < 0.05:
            rng.shuffle(members)
        if rng.random() < 0.1:
            extra = rng.choice(
                [b'"unknown":', b'"unk":[{"b":1}],"b2":', b'"\\u0061b":', self.names[rng.choice(names)] + b":"]
            )
            members.insert(rng.randrange(len(members) + 1), extra + rng.choice(self.odd[:200]))
        joint = b"," if rng.random() < 0.8 else rng.choice([b", ", b" ,\t", b"\n,"])
        return b"{" + joint.join(members) + b"}"

    def wounded(self, value: bytes) -> bytes:
        """The record with a wound."""
        rng = self.rng
        at = rng.randrange(len(value) + 1)
        match rng.randrange(4):
            case 0:
                return value[:at] + rng.choice(_WOUNDS) + value[at:]
            case 1:
                return value[:at] + value[at + rng.randint(1, 3) :]
            case 2:
                return value[:at] + bytes([rng.randrange(256)]) + value[at + 1 :]
            case _:
                to = rng.randrange(len(value) + 1)
                return value[:at] + value[to : to + rng.randint(1, 9)] + value[at:]

    def record(self, name: str, names: Sequence[str]) -> bytes | None:
        """A record of a format."""
        rng = self.rng
        value = self.image(names) if name == "json" else getattr(self, name.partition("-")[0])(names)
        chance = rng.random()
        if chance < 0.04:
            return self.wounded(value)
        if chance < 0.045:
            return rng.choice(
                [None, b"", b" ", b"{}", b"[]", b"\xef\xbb\xbf" + value, value + b" ", b"\n" + value, value + value]
            )
        return value

    def _op(self, usual: list[bytes]) -> bytes:
        return self.rng.choice(usual) if self.rng.random() < 0.98 else self.rng.choice(self.odd)

    def _image(self, names: Sequence[str]) -> bytes:
        return self.image(names) if self.rng.random() < 0.97 else self.rng.choice([b"null", self.rng.choice(self.odd)])

    def _old(self, names: Sequence[str]) -> bytes:
        return (
            self.image(names, 0.3)
            if self.rng.random() < 0.97
            else self.rng.choice([b"null", self.rng.choice(self.odd)])
        )

    def debezium(self, names: Sequence[str]) -> bytes:
        rng = self.rng
        op = self._op([b'"c"', b'"r"', b'"u"', b'"u"', b'"u"', b'"d"'])
        before = self._image(names) if op in (b'"u"', b'"d"') else b"null"
        after = b"null" if op == b'"d"' else before if rng.random() < 0.3 else self._image(names)
        source = b'{"db":"d","table":%s,"ts_ms":%s}' % (
            rng.choice([b'"t"', b'"u"', b"1"]),
            rng.choice([b"5", b'"5"', b"null"]),
        )
        value = b'{"before":%s,"after":%s,"source":%s,"op":%s,"ts_ms":%d}' % (
            before,
            after,
            source,
            op,
            rng.randint(0, 9),
        )
        wrapped = self.wrapped if rng.random() < 0.97 else not self.wrapped
        return b'{"schema":{"fields":[]},"payload":%s}' % value if wrapped else value

    def canal(self, names: Sequence[str]) -> bytes:
        rng = self.rng
        op = self._op([b'"INSERT"', b'"UPDATE"', b'"UPDATE"', b'"UPDATE"', b'"DELETE"', b'"ALTER"'])
        size = rng.choice([1, 1, 1, 2, 3, 9]) if len(names) < 9 else 1
        data = b"[" + b",".join(self._image(names) for _ in range(size)) + b"]"
        size = size if rng.random() < 0.98 else 2
        old = b"[" + b",".join(self._old(names) for _ in range(size)) + b"]" if op == b'"UPDATE"' else b"null"
        rest = b'"type":%s,"database":%s,"table":"t","isDdl":%s,"es":%s,"ts":5,"pkNames":["i"]' % (
            op,
            rng.choice([b'"d"', b'"d"', b'"e"', b'"\\u0064"', b"1", b"null"]),
            rng.choice([b"false"] * 20 + [b"true", b'"true"', b"null"]),
            rng.choice([b"4", b"4", b"-7", b'"4"', b"99999999999999999"]),
        )
        return b'{"data":%s,"old":%s,%s}' % (data, old, rest)

    def maxwell(self, names: Sequence[str]) -> bytes:
        op = self._op(
            [b'"insert"', b'"update"', b'"update"', b'"update"', b'"delete"', b'"bootstrap-insert"', b'"heartbeat"']
        )
        old = b',"old":' + self._old(names) if op == b'"update"' else b""
        ts = self.rng.choice([b"4", b"4.0", b"10000000000000"])
        return b'{"database":"d","table":"t","type":%s,"ts":%s,"data":%s%s}' % (op, ts, self._image(names), old)

    def ogg(self, names: Sequence[str]) -> bytes:
        op = self._op([b'"I"', b'"U"', b'"U"', b'"U"', b'"D"', b'"T"'])
        before = b"null" if op == b'"I"' else self._image(names)
        after = b"null" if op == b'"D"' else self._image(names)
        time = self.rng.choice([b"2024-01-31 12:00:00.000001", b"2024-01-31T12:00:00", b"2024-01-31", b"x"])
        return b'{"table":"d.t","op_type":%s,"op_ts":"%s","before":%s,"after":%s}' % (op, time, before, after)

    def ods(self, names: Sequence[str]) -> bytes:
        op = self._op([b'"INSERT"', b'"UPDATE"', b'"UPDATE"', b'"UPDATE"', b'"DELETE"', b'"DDL"'])
        before = b"null" if op == b'"INSERT"' else self._image(names)
        after = b"null" if op == b'"DELETE"' else self._image(names)
        return b'{"op":%s,"database_name":"d","table_name":"t","before":%s,"after":%s}' % (op, before, after)


_METADATA = {
    "debezium-json": [
        ("source.table", pa.string()),
        ("source.timestamp", pa.timestamp("us", "UTC")),
        ("ingestion-timestamp", pa.timestamp("s")),
    ],
    "canal-json": [("database", pa.string()), ("event-timestamp", pa.timestamp("ns", "UTC"))],
    "maxwell-json": [("table", pa.string()), ("ingestion-timestamp", pa.timestamp("ms", "UTC"))],
    "ogg-json": [("table", pa.string()), ("event-timestamp", pa.timestamp("us", "UTC"))],
    "ods-json": [("database", pa.string())],
}


def any_decoder(rng: random.Random, name: str, wrapped: bool) -> tuple[Decoder, list[str]]:
    """A decoder of a format over some columns with some options, and the columns."""
    names = rng.sample(list(COLUMNS), rng.choice([1, 2, 2, 4, 12]))
    fields = [pa.field(n, COLUMNS[n], nullable=rng.random() < 0.85) for n in names]
    options = {"ignore_parse_errors": "true"} if rng.random() < 0.2 else {}
    if name == "json":
        if not options and rng.random() < 0.2:
            options = {"fail_on_missing_field": "true"}
        return decoder(name, pa.schema(fields), **options), names
    if rng.random() < 0.5:
        options |= {"changelog__upsert": "true", "changelog__key": ";".join(rng.sample(names, 1))}
    if name == "debezium-json" and wrapped:
        options["schema_include"] = "true"
    if name in ("canal-json", "ods-json") and rng.random() < 0.3:
        options["database__include" if name == "canal-json" else "database.include"] = "d|f"
    if rng.random() < 0.4:
        fields += [meta(f"m{k}", key, type_) for k, (key, type_) in enumerate(_METADATA[name])]
        rng.shuffle(fields)
    return decoder(name, pa.schema(fields), **options), names


@contextmanager
def by_the_reference() -> Iterator[None]:
    """Within, every record is read one by one."""
    small, batches.SMALL = batches.SMALL, sys.maxsize
    try:
        yield
    finally:
        batches.SMALL = small


def outcome(decoded: Decoded) -> tuple[pa.RecordBatch, Any]:
    """All that matters of a decoded batch: its rows, comparable to the bit, and the rest."""
    rows = decoded.batch.rows
    rows.validate(full=True)
    for i, column in enumerate(rows.columns):
        if pa.types.is_floating(column.type):  # 0.0 is not -0.0 here
            rows = rows.set_column(i, rows.schema.names[i], column.view(f"int{column.type.bit_width}"))
    dead = [(d.offset, d.reason, d.value) for d in decoded.dead]
    changes = [(c.offset, c.statement, c.database, c.table) for c in decoded.schema_changes]
    return rows, (decoded.record.tolist(), decoded.batch.weight_array().tolist(), dead, changes)


def both(made: Decoder, given: Records) -> tuple[Any, Any]:
    """The outcome by kernels and by the reference."""
    found = outcome(made.decode(given))
    with by_the_reference():
        return found, outcome(made.decode(given))


def alike(made: batches.BatchDecoder, given: Records, read: npt.NDArray[np.int64]) -> bool:
    """Whether the records `read` by kernels give what the reference makes of them; the others it reads in any case."""
    part, _ = made.read_columns(given.values)
    with by_the_reference():
        rows, (record, weights, dead, changes) = outcome(made.decode(select(given, read)))
    found = Decoded(Batch(part.rows, part.weights), np.searchsorted(read, part.record))
    return same(outcome(found), (rows, (record, weights, dead, changes)))


def same(found: Any, expected: Any) -> bool:
    """Whether two outcomes are equal."""
    return bool(found[0].equals(expected[0]) and found[1] == expected[1])


def difference(made: Decoder, given: Records) -> str | None:
    """The first record of which kernels and reference make different things."""
    for i in range(len(given)):
        one = records([given.values[i].as_py(), *[None] * batches.SMALL])
        found, expected = both(made, one)
        if not same(found, expected):
            shown = [f"{o[0].to_pydict()} {o[1]}" for o in (found, expected)]
            return "\n".join([str(made.schema), repr(given.values[i].as_py()), *shown])
    return f"{made.schema}: only together"


def fuzz(seed: int, count: int, size: int, told: Callable[[int], None] = lambda n: None) -> tuple[int, int]:
    """Compare about `count` records in batches of `size`; returns how many, and how many the kernels read themselves.

    Raises:
        AssertionError: with the first record that is read differently.
    """
    rng = random.Random(seed)
    done = read = turn = 0
    maker = Maker(seed)
    while done < count:
        if turn % 64 == 63:
            maker = Maker(rng.randrange(1 << 30))
        name = FORMATS[turn % len(FORMATS)]
        maker.wrapped = rng.random() < 0.2
        maker.forget()
        made, names = any_decoder(rng, name, maker.wrapped)
        assert isinstance(made, batches.BatchDecoder)
        for first in (True, False):  # the second batch is read with the order that was learned from the first
            given = records([maker.record(name, names) for _ in range(size)])
            by_kernels = np.flatnonzero(~made.read_columns(given.values)[1])
            fine = same(*both(made, given)) if first and turn % 8 == 0 else alike(made, given, by_kernels)
            assert fine, f"seed {seed}, turn {turn}, {name}: {difference(made, given)}"
            for i in by_kernels[:1].tolist():
                made.learn(made.parse(given.values[i].as_py() or b"{}") or {})
            read += len(by_kernels)
            done += size
        turn += 1
        told(done)
    return done, read


if __name__ == "__main__":
    total, wanted, first = 0, int(sys.argv[1]), int(sys.argv[2])
    while total < wanted:
        some, kernels = fuzz(first, min(100_000, wanted - total), 500)
        total, first = total + some, first + 1
        print(f"{total} records, {kernels / some:.0%} of the last by kernels", flush=True)
