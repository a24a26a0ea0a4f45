"""The slow, obvious twins of the encoders: text made by Arrow's casts and joins and Python's json, a column at a time."""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from forebay.connectors.formats.csv import Syntax
from forebay.connectors.formats.rendering import Style
from forebay.engine.batch import Batch

_EMPTY, _NULL, _COMMA, _QUOTE = (pa.scalar(t) for t in ("", "null", ",", '"'))
_SPECIAL_CHARACTER = r'["\\\x00-\x1f]'


def rows_text(rows: pa.RecordBatch, style: Style) -> pa.StringArray:
    """One JSON object per row."""
    return object_text(rows.schema.names, rows.columns, rows.num_rows, style)


def object_text(
    names: Sequence[str], columns: Sequence[pa.Array], n: int, style: Style, raw: frozenset[str] = frozenset()
) -> pa.StringArray:
    """Objects of parallel columns of `n` rows; `raw` columns hold JSON already."""
    if not names:
        return pa.array(["{}"] * n, pa.string())
    labels = [json.dumps(name, ensure_ascii=False) + ":" for name in names]
    values = [c if name in raw else value_text(c, style) for name, c in zip(names, columns)]
    if style.skip_nulls:
        members = [_join([pa.scalar(label), value, _COMMA]) for label, value in zip(labels, values)]
        body = pc.utf8_rtrim(_join([m if m.null_count == 0 else m.fill_null("") for m in members]), ",")
        return _join([pa.scalar("{"), body, pa.scalar("}")])
    parts: list[pa.Array | pa.Scalar] = []
    for i, (label, value) in enumerate(zip(labels, values)):
        parts += [pa.scalar(("{" if i == 0 else ",") + label), value]
    return pc.binary_join_element_wise(*parts, pa.scalar("}"), _EMPTY, null_handling="replace", null_replacement="null")


def _join(parts: Sequence[pa.Array | pa.Scalar]) -> pa.StringArray:
    """Concatenation; NULL if any part is."""
    return pc.binary_join_element_wise(*parts, _EMPTY)


def value_text(array: pa.Array, style: Style) -> pa.StringArray:
    """JSON values of a column; NULL stays NULL."""
    type_ = array.type
    if pa.types.is_string(type_):
        return _quoted(_escaped(array))
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_):
        return array.cast(pa.string())
    if pa.types.is_floating(type_):
        return _floats(array)
    if pa.types.is_decimal(type_):
        return _decimals(array, style)
    if pa.types.is_binary(type_):
        return pa.array(
            [None if v is None else f'"{binascii.b2a_base64(v, newline=False).decode()}"' for v in array.to_pylist()],
            pa.string(),
        )
    if pa.types.is_temporal(type_):
        return _quoted(temporal_text(array, style.iso))
    if pa.types.is_struct(type_):
        text = object_text(
            [f.name for f in type_], [array.field(i) for i in range(type_.num_fields)], len(array), style
        )
        return _masked(text, array)
    if pa.types.is_map(type_):
        return _entries(array, style)
    if pa.types.is_null(type_):
        return pa.nulls(len(array), pa.string())
    return _elements(array, style)


def _masked(text: pa.StringArray, array: pa.Array) -> pa.StringArray:
    return text if not array.null_count else pc.if_else(array.is_valid(), text, pa.scalar(None, pa.string()))


def _quoted(text: pa.StringArray) -> pa.StringArray:
    return _join([_QUOTE, text, _QUOTE])


def _escaped(array: pa.StringArray) -> pa.StringArray:
    special = pc.match_substring_regex(array, _SPECIAL_CHARACTER)
    if not pc.any(special, min_count=0).as_py():
        return array
    escaped = [json.dumps(v, ensure_ascii=False)[1:-1] for v in array.filter(special).to_pylist()]
    return pc.replace_with_mask(array, special, pa.array(escaped, pa.string()))


_WORDS = {"nan": '"NaN"', "-nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


def _floats(array: pa.Array) -> pa.StringArray:
    text = array.cast(pa.string())
    if not pc.all(pc.is_finite(array), min_count=0).as_py():
        text = pa.array([None if t is None else _WORDS.get(t, t) for t in text.to_pylist()], pa.string())
    whole = pc.invert(pc.match_substring_regex(text, r"[.eE\"]"))
    if not pc.any(whole, min_count=0).as_py():
        return text
    return pc.if_else(whole, _join([text, pa.scalar(".0")]), text)


def _decimals(array: pa.Array, style: Style) -> pa.StringArray:
    text = array.cast(pa.string())
    if not style.plain_decimals:
        return text
    scientific = pc.match_substring(text, "E")
    if not pc.any(scientific, min_count=0).as_py():
        return text
    plain = [format(Decimal(t), "f") for t in text.filter(scientific).to_pylist()]
    return pc.replace_with_mask(text, scientific, pa.array(plain, pa.string()))


def temporal_text(array: pa.Array, iso: bool) -> pa.StringArray:
    """Dates, times and timestamps as Flink writes them, unquoted; TIMESTAMP_LTZ ends in 'Z'."""
    type_ = array.type
    if pa.types.is_date(type_):
        return array.cast(pa.string())
    zoned = pa.types.is_timestamp(type_) and type_.tz is not None
    local = array.cast(pa.timestamp(type_.unit)) if zoned else array
    text = pc.replace_substring_regex(local.cast(pa.string()), r"\.?0*$", "", max_replacements=1)
    if iso and pa.types.is_timestamp(type_):
        text = pc.replace_substring(text, " ", "T", max_replacements=1)
    return _join([text, pa.scalar("Z")]) if zoned else text


def _elements(array: pa.ListArray, style: Style) -> pa.StringArray:
    inner = value_text(array.values, style).fill_null("null")
    return _lists(array, inner, "[", "]")


def _entries(array: pa.MapArray, style: Style) -> pa.StringArray:
    keys, items = value_text(array.keys, style), value_text(array.items, style).fill_null("null")
    return _lists(array, _join([keys, pa.scalar(":"), items]), "{", "}")


def _lists(array: pa.Array, inner: pa.StringArray, opening: str, closing: str) -> pa.StringArray:
    lists = pa.ListArray.from_arrays(array.offsets, inner)
    return _masked(_join([pa.scalar(opening), pc.binary_join(lists, ","), pa.scalar(closing)]), array)


Envelope = Callable[[pa.StringArray, pa.BooleanArray], pa.StringArray]
"""Row texts and a mask of deletions to messages."""


def json_messages(name: str, batch: Batch, style: Style) -> pa.BinaryArray:
    """What an encoder of a JSON format writes."""
    text = rows_text(batch.rows, style)
    if name != "json":
        text = ENVELOPES[name](text, pa.array(batch.weight_array() < 0))
    return text.cast(pa.binary())


def wrapped(insert: tuple[str, str], delete: tuple[str, str]) -> Envelope:
    """An envelope of constant text before and after the row."""

    def envelope(text: pa.StringArray, deletions: pa.BooleanArray) -> pa.StringArray:
        inserted = _join([pa.scalar(insert[0]), text, pa.scalar(insert[1])])
        if not pc.any(deletions, min_count=0).as_py():
            return inserted
        return pc.if_else(deletions, _join([pa.scalar(delete[0]), text, pa.scalar(delete[1])]), inserted)

    return envelope


ENVELOPES: dict[str, Envelope] = {
    "debezium-json": wrapped(('{"before":null,"after":', ',"op":"c"}'), ('{"before":', ',"after":null,"op":"d"}')),
    "canal-json": wrapped(('{"data":[', '],"type":"INSERT"}'), ('{"data":[', '],"type":"DELETE"}')),
    "maxwell-json": wrapped(('{"data":', ',"type":"insert"}'), ('{"data":', ',"type":"delete"}')),
    "ogg-json": wrapped(('{"before":null,"after":', ',"op_type":"I"}'), ('{"before":', ',"after":null,"op_type":"D"}')),
}
"""What Flink writes for an insertion and for a deletion; an update is a deletion and an insertion."""


def csv_lines(batch: Batch, syntax: Syntax) -> pa.BinaryArray:
    """What the encoder of 'csv' writes."""
    fields = [_field(column, syntax) for column in batch.rows.columns]
    return pc.binary_join_element_wise(*fields, pa.scalar(syntax.delimiter)).cast(pa.binary())


def _field(column: pa.Array, syntax: Syntax) -> pa.StringArray:
    special = [syntax.delimiter, "\n", "\r", *[c for c in (syntax.quote, syntax.escape) if c]]
    pattern = "[" + "".join(f"\\x{ord(c):02x}" for c in special) + "]|^#"
    nested = pa.types.is_nested(column.type)
    text = _joined(column, syntax) if nested else _scalars(column)
    changed = pc.match_substring_regex(text, pattern)
    if pc.any(changed, min_count=0).as_py():
        protected = [_protect(t, syntax) for t in text.filter(changed).to_pylist()]
        text = pc.replace_with_mask(text, changed, pa.array(protected, pa.string()))
    return text.fill_null(syntax.null or "")


def _scalars(column: pa.Array) -> pa.StringArray:
    if pa.types.is_string(column.type):
        return column
    return pc.utf8_trim(value_text(column, Style()), '"')


def _joined(column: pa.Array, syntax: Syntax) -> pa.StringArray:
    children = [column.values] if pa.types.is_list(column.type) else column.flatten()
    texts = [_scalars(child).fill_null(syntax.null or "") for child in children]
    if pa.types.is_struct(column.type):
        joined = pc.binary_join_element_wise(*texts, pa.scalar(syntax.elements))
    else:
        joined = pc.binary_join(pa.ListArray.from_arrays(column.offsets, texts[0]), syntax.elements)
    return pc.if_else(column.is_valid(), joined, pa.scalar(None, pa.string()))


def _protect(text: str, syntax: Syntax) -> str:
    quote, escape = syntax.quote, syntax.escape
    if escape is not None:
        text = text.replace(escape, escape + escape)
        if quote is not None:
            return quote + text.replace(quote, escape + quote) + quote
        return text.replace(syntax.delimiter, escape + syntax.delimiter)
    return text if quote is None else quote + text.replace(quote, quote + quote) + quote


def ods_messages(batch: Batch, options: Mapping[str, str]) -> pa.BinaryArray:
    """What the encoder of 'ods-json' writes of rows, whose time is column 't'."""
    style = Style(skip_nulls="encode__ignore_null_fields" in options)
    row = rows_text(batch.rows, style)
    deletions = pa.array(batch.weight_array() < 0)
    no_image = pa.scalar("null")
    names = [(n, options.get(n)) for n in ("database_name", "table_name")]
    named = "".join(f',"{n}":{json.dumps(v)}' for n, v in names if v is not None)
    time: list[pa.Array | pa.Scalar] = []
    if "event_time_column" in options:
        zoned = batch.rows.column("t").cast(pa.timestamp("us", "UTC"))
        time = [pa.scalar(',"event_time":'), value_text(zoned, style).fill_null("null")]
    parts = [
        pc.if_else(deletions, pa.scalar('{"op":"DELETE"'), pa.scalar('{"op":"INSERT"')),
        *time,
        pa.scalar(named + ',"before":'),
        pc.if_else(deletions, row, no_image),
        pa.scalar(',"after":'),
        pc.if_else(deletions, no_image, row),
        pa.scalar("}"),
    ]
    return pc.binary_join_element_wise(*parts, pa.scalar("")).cast(pa.binary())
