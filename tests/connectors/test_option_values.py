"""Values of options are checked when a table is made: type, range and choice, with the place, the cause and the fix."""

from __future__ import annotations

import pytest

import forebay
from forebay.connectors import default_registry
from forebay.engine.connector import Option
from forebay.engine.errors import OptionError
from forebay.engine.optionkinds import Kind, fits

BAD = {
    Kind.INTEGER: "fast",
    Kind.BOOLEAN: "yes",
    Kind.DURATION: "soon",
    Kind.SIZE: "big",
    Kind.PATTERN: "(a",
}
TABLES = {
    "kafka": "'topic' = 't', 'properties.bootstrap.servers' = 'h:9', 'format' = 'json'",
    "upsert-kafka": "'topic' = 't', 'properties.bootstrap.servers' = 'h:9', 'key.format' = 'json', 'value.format' = 'json'",
    "log": "'topic' = 't', 'format' = 'json'",
    "upsert-log": "'topic' = 't', 'key.format' = 'json', 'value.format' = 'json'",
    "filesystem": "'path' = '/p', 'format' = 'json'",
}


def create(connector: str, option: str, value: str, format_: str | None = None) -> str:
    given = TABLES.get(connector, "").replace("'json'", f"'{format_ or 'json'}'")
    given = ", ".join(p for p in given.split(", ") if not p.startswith(f"'{option}' ")) if given else ""
    key = ", PRIMARY KEY (id) NOT ENFORCED" if connector.startswith("upsert") else ""
    columns = f"id BIGINT{key}" if format_ != "raw" else "id STRING"
    more = ", " + given if given else ""
    return f"CREATE TABLE t ({columns}) WITH (\n  'connector' = '{connector}'{more},\n  '{option}' = '{value}'\n)"


def wrong(option: Option) -> list[str]:
    """Values that are none."""
    found = ["nonsense"] if option.choices else [BAD[option.kind]] if option.kind in BAD else []
    return [*found, *([str(option.least - 1)] if option.least is not None else [])]


CONNECTORS = default_registry().connectors
FORMATS = default_registry().formats
CASES = [(c, o.name, v, None) for c in CONNECTORS for o in CONNECTORS[c].options for v in wrong(o)]
CASES += [
    ("log", f"{f}.{o.name}", v, f)
    for f in FORMATS
    for o in FORMATS[f].options
    for v in wrong(o)
    if f not in ("parquet", "orc")
]


def test_a_wrong_value_is_told_when_the_table_is_made() -> None:
    assert len(CASES) > 100
    with forebay.connect() as con:
        for connector, option, value, format_ in CASES:
            statement = create(connector, option, value, format_)
            with pytest.raises(OptionError) as failure:
                con.execute(statement)
            error = failure.value
            assert f"'{option}'" in error.message, statement
            assert f"cannot be '{value}'" in error.message, statement
            assert error.hint is not None
            assert (error.line, error.column) == (3, 4), statement


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "CREATE TABLE t (id BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = 'fast')",
            "whole number of at least 0",
        ),
        ("CREATE TABLE t (id BIGINT) WITH ('connector' = 'datagen', 'fields.id.min' = 'low')", "fields.id.min"),
        ("CREATE TABLE t (id BIGINT) WITH ('connector' = 'datagen', 'fields.idd.min' = '1')", "idd"),
        ("CREATE TABLE t (id BIGINT) WITH ('connector' = 'log', 'format' = 'json')", "topic"),
        (
            "CREATE TABLE t (id BIGINT) WITH ('connector' = 'log', 'topic' = 't', 'format' = 'jsn')",
            "did you mean 'json'",
        ),
        ("CREATE TABLE t (id BIGINT) WITH ('connector' = 'log', 'topic' = 't')", "format"),
        (
            "CREATE TABLE t (id BIGINT) WITH ('connector' = 'log', 'topic' = 't', 'format' = 'json', "
            "'scan.startup.mode' = 'timestamp')",
            "scan.startup.timestamp-millis",
        ),
        (
            "CREATE TABLE t (id BIGINT) WITH ('connector' = 'kafka', 'properties.bootstrap.servers' = 'h:9', 'topic' = 't', "
            "'format' = 'json', 'scan.startup.mode' = 'specific-offsets', 'scan.startup.specific-offsets' = 'zero')",
            "scan.startup.specific-offsets",
        ),
        (
            "CREATE TABLE t (id STRING) WITH ('connector' = 'log', 'topic' = 't', 'format' = 'raw', 'raw.charset' = 'klingon')",
            "klingon",
        ),
        (
            "CREATE TABLE t (id STRING) WITH ('connector' = 'log', 'topic' = 't', 'format' = 'csv', "
            "'csv.field-delimiter' = 'ab')",
            "field-delimiter",
        ),
    ],
)
def test_what_only_the_connector_knows_is_told_then_too(statement: str, told: str) -> None:
    with forebay.connect() as con:
        with pytest.raises(forebay.ForebayError) as failure:
            con.execute(statement)
        assert told in str(failure.value)
        assert getattr(failure.value, "line", None) == 1


def test_defaults_fit() -> None:
    for named in (*CONNECTORS.values(), *FORMATS.values()):
        for option in named.options:
            assert option.default is None or fits(option.kind, option.default, option.least), (named.name, option.name)
