"""Flink's functions in DataFusion's words: one template per function and number of arguments.

A template is SQL for DataFusion with `_0`, `_1`, ... for the arguments. Functions that mean the same on both sides need no
entry; those whose result type depends on the arguments' types are in `planner.result_types`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from sqlglot import exp

from forebay.engine.errors import SqlError, UnsupportedError
from forebay.planner.functions import user_function
from forebay.planner.sqltext import DataFusion, arrow_type, custom_type, type_word
from forebay.planner.udfs.time import java_pattern

_DEFAULT_TIME = "'yyyy-MM-dd HH:mm:ss'"
_ALPHA, _DIGIT, _DECIMAL = r"'^[[:alpha:]]+$'", r"'^[0-9]+$'", r"'^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)$'"

_TEMPLATES: dict[str, tuple[str, ...]] = {
    # conditional
    "IFNULL": ("coalesce(_0, _1)",),
    "NVL": ("coalesce(_0, _1)",),
    "IF": ("CASE WHEN _0 THEN _1 ELSE _2 END",),
    # numbers
    "MOD": ("(_0 % _1)",),
    "TRUNCATE": ("trunc(_0)", "trunc(_0, _1)"),
    "CEILING": ("ceil(_0)",),
    "SIGN": ("signum(_0)",),
    "LOG": ("ln(CAST(_0 AS DOUBLE))", "log(CAST(_0 AS DOUBLE), CAST(_1 AS DOUBLE))"),
    "LN": ("ln(CAST(_0 AS DOUBLE))",),
    "POWER": ("power(CAST(_0 AS DOUBLE), CAST(_1 AS DOUBLE))",),
    "E": ("2.718281828459045e0",),
    "RAND": ("random()", "random()"),
    "RAND_INTEGER": ("CAST(floor(random() * _0) AS INT)",),
    "HEX": ("upper(to_hex(CAST(_0 AS BIGINT)))",),
    # text
    "CHARACTER_LENGTH": ("char_length(_0)",),
    "LENGTH": ("char_length(_0)",),
    "SUBSTRING": ("substr(_0, _1)", "substr(_0, _1, _2)"),
    "INSTR": ("strpos(_0, _1)",),
    "POSITION": ("strpos(_1, _0)",),
    "LOCATE": ("strpos(_1, _0)", "locate(_0, _1, CAST(_2 AS INT))"),
    "REGEXP": ("regexp_like(_0, _1)",),
    "REGEXP_EXTRACT": (
        "array_element(regexp_match(_0, '(' || _1 || ')'), 1)",
        "array_element(regexp_match(_0, '(' || _1 || ')'), _2 + 1)",
    ),
    "REGEXP_REPLACE": ("regexp_replace(_0, _1, _2, 'g')",),
    "SPLIT_INDEX": ("split_index(_0, CAST(_1 AS VARCHAR), CAST(_2 AS INT))",),
    "SPLIT": ("string_to_array(_0, _1)",),
    "STR_TO_MAP": ("str_to_map(_0, ',', '=')", "str_to_map(_0, _1, _2)"),
    "STARTSWITH": ("starts_with(_0, _1)",),
    "ENDSWITH": ("ends_with(_0, _1)",),
    "PARSE_URL": ("parse_url(_0, _1)", "parse_url_query(_0, _1, _2)"),
    "IS_ALPHA": (f"coalesce(regexp_like(CAST(_0 AS VARCHAR), {_ALPHA}), FALSE)",),
    "IS_DIGIT": (f"coalesce(regexp_like(CAST(_0 AS VARCHAR), {_DIGIT}), FALSE)",),
    "IS_DECIMAL": (f"coalesce(regexp_like(CAST(_0 AS VARCHAR), {_DECIMAL}), FALSE)",),
    "LEFT": ("CAST(left(_0, _1) AS VARCHAR)",),
    "RIGHT": ("CAST(right(_0, _1) AS VARCHAR)",),
    "MD5": ("CAST(md5(_0) AS VARCHAR)",),
    "SHA224": ("encode(sha224(_0), 'hex')",),
    "SHA256": ("encode(sha256(_0), 'hex')",),
    "SHA384": ("encode(sha384(_0), 'hex')",),
    "SHA512": ("encode(sha512(_0), 'hex')",),
    "TO_BASE64": ("to_base64(CAST(_0 AS VARCHAR))",),
    # time
    "NOW": ("current_timestamp(0)",),
    "PROCTIME": ("current_timestamp(0)",),
    "CURRENT_TIMESTAMP": ("current_timestamp(0)",),
    "CURRENT_ROW_TIMESTAMP": ("current_timestamp(0)",),
    "LOCALTIMESTAMP": ("localtimestamp(0)",),
    "CURRENT_DATE": ("current_date(0)",),
    "CURRENT_TIME": ("localtime(0)",),
    "LOCALTIME": ("localtime(0)",),
    "UNIX_TIMESTAMP": (
        "unix_timestamp(0)",
        f"CAST(date_part('epoch', parse_timestamp(_0, {_DEFAULT_TIME})) AS BIGINT)",
        "CAST(date_part('epoch', parse_timestamp(_0, _1)) AS BIGINT)",
    ),
    "TO_TIMESTAMP": ("TRY_CAST(_0 AS TIMESTAMP(3))", "parse_timestamp(_0, _1)"),
    "TO_DATE": ("TRY_CAST(_0 AS DATE)", "CAST(parse_timestamp(_0, _1) AS DATE)"),
    "CONVERT_TZ": ("convert_tz(_0, _1, _2)",),
    "QUARTER": ("CAST(date_part('quarter', _0) AS BIGINT)",),
    "DAYOFMONTH": ("CAST(date_part('day', _0) AS BIGINT)",),
    "DAYOFYEAR": ("CAST(date_part('doy', _0) AS BIGINT)",),
    "DAYOFWEEK": ("CAST(date_part('dow', _0) + 1 AS BIGINT)",),
    "YEAR": ("CAST(date_part('year', _0) AS BIGINT)",),
    "MONTH": ("CAST(date_part('month', _0) AS BIGINT)",),
    "WEEK": ("CAST(date_part('week', _0) AS BIGINT)",),
    "DAY": ("CAST(date_part('day', _0) AS BIGINT)",),
    "HOUR": ("CAST(date_part('hour', _0) AS BIGINT)",),
    "MINUTE": ("CAST(date_part('minute', _0) AS BIGINT)",),
    "SECOND": ("CAST(date_part('second', _0) AS BIGINT)",),
    # collections
    "CARDINALITY": ("CAST(cardinality(_0) AS INT)",),
    "ELEMENT": ("array_element(_0, 1)",),
    "ARRAY_CONTAINS": ("array_has(_0, _1)",),
    "ARRAY_POSITION": ("coalesce(CAST(array_position(_0, _1) AS INT), 0)",),
    "ARRAY_REMOVE": ("array_remove_all(_0, _1)",),
    "ARRAY_JOIN": ("array_to_string(_0, _1)", "array_to_string(_0, _1, _2)"),
    "MAP_FROM_ARRAYS": ("map(_0, _1)",),
    # aggregates
    "LISTAGG": ("string_agg(_0, ',')", "string_agg(_0, _1)"),
    "COLLECT": ("array_agg(_0)",),
    "EVERY": ("bool_and(_0)",),
    "SOME": ("bool_or(_0)",),
    "STDDEV": ("stddev_samp(_0)",),
    "VARIANCE": ("var_samp(_0)",),
    # JSON
    "JSON_STRING": ("json_quote(CAST(_0 AS VARCHAR))",),
}
_UNITS_OF_MILLIS = {
    "MILLISECOND": 1,
    "SECOND": 1000,
    "MINUTE": 60_000,
    "HOUR": 3_600_000,
    "DAY": 86_400_000,
    "WEEK": 604_800_000,
}
_UNITS_OF_MONTHS = {"MONTH": 1, "QUARTER": 3, "YEAR": 12}
_EXTRACTED = {
    "EPOCH": "CAST(date_part('epoch', _0) AS BIGINT)",
    "MILLISECOND": "CAST(date_part('millisecond', _0) AS BIGINT) % 1000",
    "MICROSECOND": "CAST(date_part('microsecond', _0) AS BIGINT) % 1000000",
    "DOW": "CAST(date_part('dow', _0) + 1 AS BIGINT)",
}
_REFUSED = {
    "CURRENT_WATERMARK": "the watermark is not visible to expressions",
    "GROUP_ID": "grouping ids come from GROUPING and GROUPING_ID only",
}


_SAME_NAME = """
ABS ACOS ARRAY_APPEND ARRAY_CONCAT ARRAY_DISTINCT ARRAY_MAX ARRAY_MIN ARRAY_PREPEND ARRAY_REVERSE ARRAY_SLICE ARRAY_SORT
ARRAY_UNION ASCII ASIN ATAN ATAN2 AVG BTRIM CEIL CHAR_LENGTH CHR COALESCE CONCAT_WS COS COSH COT COUNT DEGREES DENSE_RANK
EXP EXTRACT FIRST_VALUE FLOOR INITCAP JSON_EXISTS JSON_OBJECT JSON_QUERY JSON_VALUE LAST_VALUE LOG10 LOG2 LOWER LPAD LTRIM
MAP_ENTRIES MAP_KEYS MAP_VALUES MAX MIN NULLIF OVERLAY PI RADIANS RANK REPEAT REPLACE REVERSE ROUND ROW_NUMBER RPAD RTRIM
SHA1 SIN SINH SQRT STDDEV_POP STDDEV_SAMP SUM TAN TANH TRANSLATE TRIM TYPEOF UPPER URL_DECODE URL_ENCODE UUID VAR_POP
VAR_SAMP
"""
"""Functions that mean the same to DataFusion, or have a syntax or types of their own."""


def function_names() -> list[str]:
    """Flink's functions that are known here, in upper case and order; SHOW FUNCTIONS lists them."""
    return sorted({*_TEMPLATES, *_BY_NAME, *_SAME_NAME.split()})


def filled(template: str, *args: exp.Expression) -> exp.Expression:
    """The template with its arguments in place. An argument is moved out of its tree, and copied where it is used again."""
    tree = _parsed(template).copy()
    places = [c for c in tree.find_all(exp.Column) if re.fullmatch(r"_\d+", c.name)]
    used: set[int] = set()
    for place in places:
        index = int(place.name[1:])
        argument = args[index].copy() if index in used else args[index]
        used.add(index)
        if place is tree:
            tree = argument
        else:
            place.replace(argument)
    return exp.Paren(this=tree) if isinstance(tree, exp.Binary) else tree


@cache
def _parsed(template: str) -> exp.Expression:
    return exp.maybe_parse(template, dialect=DataFusion)


def name_and_args(node: exp.Expression) -> tuple[str, list[exp.Expression]] | None:
    """A function call's name in upper case and its arguments, whether the parser knew the function or not."""
    if isinstance(node, exp.Anonymous):
        name, args = (node.this if isinstance(node.this, str) else node.name).upper(), list(node.expressions)
        if len(args) == 1 and isinstance(args[0], exp.Distinct):
            first, *rest = args[0].expressions  # f(DISTINCT x, y) is DISTINCT in x
            args = [exp.Distinct(expressions=[first]), *rest]
        return name, args
    if isinstance(node, exp.Column) and not node.table and node.name.upper() in ("LOCALTIMESTAMP", "LOCALTIME"):
        return (node.name.upper(), []) if not node.this.args.get("quoted") else None
    if not isinstance(node, exp.Func) or isinstance(node, exp.Cast | exp.Case | exp.AggFunc | exp.Array):
        return None
    if isinstance(node, exp.If) and isinstance(node.parent, exp.Case):
        return None  # a branch of CASE
    parts: list[exp.Expression] = []
    for key in node.arg_types:
        value = node.args.get(key)
        parts += value if isinstance(value, list) else [value] if isinstance(value, exp.Expression) else []
    return str(node.sql_name()).upper(), parts


def translated(node: exp.Expression) -> exp.Expression | None:
    """The node in DataFusion's words, its arguments as they are; None where it needs no change.

    Raises:
        SqlError: a wrong number of arguments.
        UnsupportedError: a function that has no meaning here, by name.
    """
    special = _SPECIAL.get(type(node))
    if special is not None:
        return special(node)
    call = name_and_args(node)
    if call is None:
        return None
    name, args = call
    if node.meta.get("returning") is not None or node.meta.get("clauses"):
        return _json_clauses(node, args)
    if name in _REFUSED:
        raise UnsupportedError(f"{name} is not supported: {_REFUSED[name]}")
    if name in _BY_NAME:
        _check_count(name, len(args), _ARITY[name])
        return _BY_NAME[name](args)
    function = user_function(name)
    if function is not None:
        return _user_call(
            function.name, [custom_type(a.copy(), t) for a, t in zip(args, function.arguments)], len(args)
        )
    templates = _TEMPLATES.get(name)
    if templates is None:
        return None
    return _by_arity(name, templates, args)


def _by_arity(name: str, templates: tuple[str, ...], args: list[exp.Expression]) -> exp.Expression:
    for template in templates:
        if max(_places(template), default=-1) + 1 == len(args) or (name == "RAND" and len(args) == 1):
            return filled(template, *args)
    _check_count(name, len(args), [max(_places(t), default=-1) + 1 for t in templates])
    raise SqlError(f"{name} does not take {len(args)} arguments")


def _places(template: str) -> set[int]:
    return {int(n) for n in re.findall(r"\b_(\d+)", template)}


def _check_count(name: str, given: int, takes: Sequence[int]) -> None:
    """Raises SqlError unless the number of arguments is one of `takes`."""
    if given in takes or (takes[-1] == _MANY and given >= takes[0]):
        return
    least = sorted(set(takes))
    counts = f"at least {least[0]}" if takes[-1] == _MANY else " or ".join(map(str, least))
    raise SqlError(f"{name} takes {counts} argument{'' if least[-1] == 1 or least == [1, _MANY] else 's'}, not {given}")


def _user_call(name: str, args: list[exp.Expression], given: int) -> exp.Expression:
    function = user_function(name)
    if function is not None and len(function.arguments) != given:
        raise SqlError(f"{name} takes {len(function.arguments)} arguments, not {given}")
    return exp.Anonymous(this=name, expressions=args)


def _unit(node: exp.Expression) -> str:
    name = str(node.name).upper()
    return name.removesuffix("S")


def _timestamp_diff(args: list[exp.Expression]) -> exp.Expression:
    """TIMESTAMPDIFF(unit, from, to): whole units, cut towards zero."""
    unit, start, end = args
    millis = _UNITS_OF_MILLIS.get(_unit(unit))
    if millis is not None:
        start_millis, end_millis = (f"CAST(CAST(_{i} AS TIMESTAMP(3)) AS BIGINT)" for i in (0, 1))
        return filled(f"CAST(({end_millis} - {start_millis}) / {millis} AS INT)", start, end)
    months = _UNITS_OF_MONTHS.get(_unit(unit))
    if months is None:
        raise SqlError(
            f"{unit.name} is no unit of TIMESTAMPDIFF", hint="use SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR"
        )
    return filled(
        f"CAST(months_between(CAST(_0 AS TIMESTAMP(6)), CAST(_1 AS TIMESTAMP(6))) / {months} AS INT)", start, end
    )


def _timestamp_add(args: list[exp.Expression]) -> exp.Expression:
    """TIMESTAMPADD(unit, n, time); months and years take a constant n."""
    unit, count, time = args
    millis, months = _UNITS_OF_MILLIS.get(_unit(unit)), _UNITS_OF_MONTHS.get(_unit(unit))
    if millis is None and months is None:
        raise SqlError(
            f"{unit.name} is no unit of TIMESTAMPADD", hint="use SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR"
        )
    sign, number = ("-", count.this) if isinstance(count, exp.Neg) else ("", count)
    if isinstance(number, exp.Literal) and not number.is_string:
        step, word = (months, "MONTH") if months is not None else (millis, "MILLISECOND")
        if _unit(unit) in ("DAY", "WEEK"):
            step, word = (7 if _unit(unit) == "WEEK" else 1), "DAY"  # a DATE takes whole days only
        length = exp.Literal.string(f"{sign}{int(number.name) * (step or 1)}")
        return exp.Paren(this=exp.Add(this=time, expression=exp.Interval(this=length, unit=exp.var(word))))
    if millis is None:
        raise UnsupportedError(f"TIMESTAMPADD by {unit.name} takes a constant number", hint="time + INTERVAL '1' MONTH")
    return filled(f"(_1 + arrow_cast(CAST(_0 AS BIGINT) * {millis}, 'Duration(ms)'))", count, time)


def _date_format(args: list[exp.Expression]) -> exp.Expression:
    """DATE_FORMAT(time, pattern): a constant pattern is translated here and runs in DataFusion."""
    time, pattern = args
    if isinstance(pattern, exp.Literal) and pattern.is_string:
        form = exp.Literal.string(java_pattern(pattern.name))
        return filled("to_char(CAST(_0 AS TIMESTAMP(6)), _1)", time, form)
    return filled("date_format(CAST(_0 AS TIMESTAMP(6)), _1)", time, pattern)


def _from_unixtime(args: list[exp.Expression]) -> exp.Expression:
    """FROM_UNIXTIME(seconds[, pattern])."""
    pattern = args[1] if len(args) > 1 else exp.Literal.string("yyyy-MM-dd HH:mm:ss")
    return _date_format([filled("CAST(CAST(_0 AS BIGINT) * 1000 AS TIMESTAMP(3))", args[0]), pattern])


def _to_timestamp_ltz(args: list[exp.Expression]) -> exp.Expression:
    """TO_TIMESTAMP_LTZ(number, precision) or (text[, pattern])."""
    precision = args[1].name if len(args) > 1 and isinstance(args[1], exp.Literal) and not args[1].is_string else None
    if precision is None and len(args) == 2:
        return filled("CAST(parse_timestamp(_0, _1) AS TIMESTAMPTZ(3))", *args)
    factor = " * 1000" if precision == "0" else ""
    return filled(f"CAST(CAST(_0 AS BIGINT){factor} AS TIMESTAMPTZ(3))", args[0])


def _concat(args: list[exp.Expression]) -> exp.Expression:
    """CONCAT is NULL if any part is; DataFusion's own skips NULLs."""
    template = " || ".join(f"CAST(_{i} AS VARCHAR)" for i in range(len(args)))
    return exp.Paren(this=filled(template, *args).unnest())


def _extreme(name: str) -> Callable[[list[exp.Expression]], exp.Expression]:
    """GREATEST and LEAST are NULL if any argument is; DataFusion's own skip NULLs."""

    def build(args: list[exp.Expression]) -> exp.Expression:
        places = [f"_{i}" for i in range(len(args))]
        missing = " OR ".join(f"{p} IS NULL" for p in places)
        return filled(f"CASE WHEN {missing} THEN NULL ELSE {name}({', '.join(places)}) END", *args)

    return build


def _row(args: list[exp.Expression]) -> exp.Expression:
    parts = [part for i, a in enumerate(args) for part in (exp.Literal.string(f"f{i}"), a.copy())]
    return exp.Anonymous(this="named_struct", expressions=parts)


_BY_NAME: dict[str, Callable[[list[exp.Expression]], exp.Expression]] = {
    "TIMESTAMPDIFF": _timestamp_diff,
    "TIMESTAMPADD": _timestamp_add,
    "DATE_FORMAT": _date_format,
    "FROM_UNIXTIME": _from_unixtime,
    "TO_TIMESTAMP_LTZ": _to_timestamp_ltz,
    "CONCAT": _concat,
    "GREATEST": _extreme("greatest"),
    "LEAST": _extreme("least"),
    "ROW": _row,
}


def _json_clauses(node: exp.Expression, args: list[exp.Expression]) -> exp.Expression:
    """RETURNING type and DEFAULT x ON ERROR of JSON_VALUE; a path is strict, so what is missing counts as an error."""
    clauses = " ".join(node.meta.get("clauses", ())).upper()
    default = re.search(r"DEFAULT (\S+) ON ERROR", clauses)
    if (
        "WRAPPER" in clauses
        or re.search(r"(?<!DEFAULT )ERROR ON", clauses)
        or "OBJECT ON" in clauses
        or "ARRAY ON" in clauses
    ):
        raise UnsupportedError(f"{node.this} with {clauses} is not supported")
    value: exp.Expression = exp.Anonymous(this=str(node.this).lower(), expressions=[a.copy() for a in args])
    target = node.meta.get("returning")
    if target is not None:
        value = exp.TryCast(this=value, to=target.copy())
    if default is None:
        return value
    words = node.meta["clauses"]
    other: exp.Expression = exp.Literal.string(words[[w.upper() for w in words].index("DEFAULT") + 1])
    if target is not None:
        other = exp.Cast(this=other, to=target.copy())
    return exp.Coalesce(this=value, expressions=[other])


_MANY = 1000
_ARITY: dict[str, tuple[int, ...]] = {
    "TIMESTAMPDIFF": (3,),
    "TIMESTAMPADD": (3,),
    "DATE_FORMAT": (2,),
    "FROM_UNIXTIME": (1, 2),
    "TO_TIMESTAMP_LTZ": (1, 2),
    "CONCAT": (1, _MANY),
    "GREATEST": (1, _MANY),
    "LEAST": (1, _MANY),
    "ROW": (1, _MANY),
}


def _rounded_time(node: exp.Expression) -> exp.Expression | None:
    """FLOOR(time TO unit) and CEIL(time TO unit); of a number they stay."""
    unit = node.args.get("to")
    if unit is None:
        return exp.Anonymous(this="floor" if isinstance(node, exp.Floor) else "ceil", expressions=[node.this.copy()])
    name = exp.Literal.string(unit.name.lower())
    if isinstance(node, exp.Floor):
        return filled("date_trunc(_0, _1)", name, node.this)
    interval = exp.Interval(this=exp.Literal.string("1"), unit=exp.var(unit.name.upper()))
    return filled(
        "CASE WHEN date_trunc(_0, _1) = _1 THEN _1 ELSE date_trunc(_0, _1) + _2 END", name, node.this, interval
    )


def _extract(node: exp.Expression) -> exp.Expression:
    unit = node.this.name.upper()
    template = _EXTRACTED.get(unit, f"CAST(date_part('{unit.lower()}', _0) AS BIGINT)")
    return filled(template, node.expression)


def _bracket(node: exp.Expression) -> exp.Expression | None:
    """MAP[k, v, ...]; element access stays."""
    if not (isinstance(node.this, exp.Column) and node.this.name.upper() == "MAP" and not node.this.table):
        return None
    items = [e.copy() for e in node.expressions]
    keys, values = (exp.Anonymous(this="make_array", expressions=items[i::2]) for i in (0, 1))
    return exp.Anonymous(this="map", expressions=[keys, values])


def _string_position(node: exp.Expression) -> exp.Expression:
    return filled("strpos(_0, _1)", node.this, node.args["substr"])


def _is_json(node: exp.Expression) -> exp.Expression | None:
    return filled("is_json(_0)", node.this) if isinstance(node.expression, exp.JSON) else None


def _like(node: exp.Expression) -> exp.Expression | None:
    """LIKE .. ESCAPE c: DataFusion knows the backslash only, so the pattern is written with it."""
    like, escape = node.this, node.expression
    if not (isinstance(like.expression, exp.Literal) and isinstance(escape, exp.Literal)):
        raise UnsupportedError("LIKE .. ESCAPE takes a constant pattern and a constant character")
    pattern, mark = like.expression.name, escape.name
    text = re.sub(rf"{re.escape(mark)}(.)|(\\)", lambda m: "\\" + (m.group(1) or m.group(2)), pattern)
    changed = like.copy()
    changed.set("expression", exp.Literal.string(text))
    return changed


def _cast(node: exp.Expression) -> exp.Expression | None:
    """CAST(ROW(...) AS ROW<...>) names and casts the fields; DataFusion casts between equal names only."""
    arrow_type(node.to)  # an unknown type is told here, where the node's place is known
    row = node.this
    is_row = isinstance(row, exp.Anonymous) and row.this == "named_struct"
    if not is_row or type_word(node.to) != "STRUCT" or len(row.expressions) != 2 * len(node.to.expressions):
        return None
    parts: list[exp.Expression] = []
    for column, value in zip(node.to.expressions, row.expressions[1::2]):
        parts += [exp.Literal.string(column.name), exp.Cast(this=value.copy(), to=column.args["kind"].copy())]
    return exp.Anonymous(this="named_struct", expressions=parts)


def _count(node: exp.Expression) -> exp.Expression | None:
    """COUNT(DISTINCT a, b) counts pairs without NULL."""
    distinct = node.this
    if not isinstance(distinct, exp.Distinct) or len(distinct.expressions) < 2:
        return None
    values = distinct.expressions
    present = " AND ".join(f"_{i} IS NOT NULL" for i in range(len(values)))
    pair = filled(f"CASE WHEN {present} THEN _{len(values)} END", *values, _row(values))
    return exp.Count(this=exp.Distinct(expressions=[pair]))


def _within_group(node: exp.Expression) -> exp.Expression:
    """LISTAGG(x) WITHIN GROUP (ORDER BY y): DataFusion takes the order behind the last argument."""
    call = node.this.copy()
    last = call.expressions[-1]
    last.replace(exp.Order(this=last.copy(), expressions=[o.copy() for o in node.expression.expressions]))
    return call


def _json_object(node: exp.Expression) -> exp.Expression:
    parts: list[str] = []
    args: list[exp.Expression] = []
    for pair in node.expressions:
        at = len(args)
        args += [pair.this, pair.expression]
        parts.append(f"json_quote(CAST(_{at} AS VARCHAR)) || ':' || json_of(_{at + 1})")
    return filled("'{' || " + " || ',' || ".join(parts) + " || '}'" if parts else "'{}'", *args)


def _equals_any(node: exp.Expression) -> exp.Expression | None:
    """x = ANY (query) is x IN (query), which joins by key."""
    query = _quantified(node.expression, exp.Any)
    return None if query is None else exp.In(this=node.this, query=query)


def _differs_from_all(node: exp.Expression) -> exp.Expression | None:
    """x <> ALL (query) is x NOT IN (query)."""
    query = _quantified(node.expression, exp.All)
    return None if query is None else exp.Not(this=exp.In(this=node.this, query=query))


def _quantified(node: exp.Expression, kind: type[exp.Expression]) -> exp.Expression | None:
    """The subquery behind ANY or ALL."""
    inner = node.this.unnest() if isinstance(node, kind) else None
    return exp.Subquery(this=inner) if isinstance(inner, exp.Query) else None


_SPECIAL: dict[type, Callable[[exp.Expression], exp.Expression | None]] = {
    exp.Cast: _cast,
    exp.EQ: _equals_any,
    exp.NEQ: _differs_from_all,
    exp.Count: _count,
    exp.WithinGroup: _within_group,
    exp.Floor: _rounded_time,
    exp.Ceil: _rounded_time,
    exp.Extract: _extract,
    exp.Bracket: _bracket,
    exp.StrPosition: _string_position,
    exp.Is: _is_json,
    exp.Escape: _like,
    exp.JSONObject: _json_object,
}
