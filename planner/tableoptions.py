"""A table's options: those that every connector's table has, and the check of all against its connector and formats.

An option that is unknown or does not fit is refused when the table is defined, by name, and never ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from forebay.engine.connector import Option, Registry, check_options
from forebay.engine.errors import OptionError, nearest
from forebay.planner.options import duration
from forebay.planner.tables import Table

STATE = "state."
"""What the names of options begin with that say how a table's state is kept, and not how the table is read."""
STATE_TTL = Option(f"{STATE}ttl", "how long joins and groupings keep the table's rows, such as '35 d'; '0' for ever")
STATE_COLUMNS = Option(
    "state.columns", "what joins of the table store: 'all' columns, some ('a;b'), or 'used', which no jobs share", "all"
)
STATE_KEEP = Option(
    f"{STATE}keep",
    "whether what joins stored of the table stays when the last job leaves",
    "false",
    choices=("true", "false"),
)
ALIGNMENT_GROUP = Option(
    "scan.watermark.alignment.group", "a name: tables with the same one are read at one pace, by their watermarks"
)
ALIGNMENT_DRIFT = Option(
    "scan.watermark.alignment.max-drift", "how far the table may be ahead of the slowest of its group", "1 min"
)


def check_connector(table: Table, registry: Registry) -> None:
    """Check a table's options against its connector and formats.

    Raises:
        OptionError: naming the option, and the nearest known one.
    """
    connector = registry.connector(table.options["connector"])
    known: list[Option] = [
        Option("connector", "the connector"),
        STATE_COLUMNS,
        STATE_TTL,
        STATE_KEEP,
        ALIGNMENT_GROUP,
        ALIGNMENT_DRIFT,
        *connector.options,
    ]
    if connector.uses_format:
        for prefix, name in formats_of(table.options):
            found = registry.format(name)
            known += [replace(o, name=f"{prefix}{name}.{o.name}", required=False) for o in found.options]
        names = {o.name for o in known}
        known += [Option(n, n) for n in ("format", "key.format", "value.format") if n not in names]
    check_options(table.options, known, connector.option_prefixes, f"connector '{connector.name}'")
    state_columns(table.options, table)
    alignment(table)
    if connector.source is None and connector.sink is None:
        raise OptionError(f"connector '{connector.name}' can be neither read nor written")


def state_ttl(options: Mapping[str, str]) -> int | None:
    """How long joins and groupings keep a table's rows, in ms; 0: for ever; None: the table does not say.

    Raises:
        OptionError: it is no duration.
    """
    text = options.get(STATE_TTL.name)
    if text is None:
        return None
    try:
        return duration(text) // 1000
    except OptionError as error:
        raise OptionError(f"option '{STATE_TTL.name}': {error.message}") from error


def alignment(table: Table) -> tuple[str | None, int]:
    """A table's alignment group, if it has one, and the most drift in µs.

    Raises:
        OptionError: the table has no watermark, or the drift is no duration.
    """
    group = table.options.get(ALIGNMENT_GROUP.name)
    if group is not None and table.watermark is None:
        raise OptionError(f"option '{ALIGNMENT_GROUP.name}': {table.name} has no WATERMARK", hint="declare one")
    try:
        return group, duration(table.options.get(ALIGNMENT_DRIFT.name, ALIGNMENT_DRIFT.default or ""))
    except OptionError as error:
        raise OptionError(f"option '{ALIGNMENT_DRIFT.name}': {error.message}") from error


def state_columns(options: Mapping[str, str], table: Table) -> list[str] | None:
    """The columns that joins of a table store, in its order; None for 'used'. Computed ones are not among them.

    Raises:
        OptionError: a column that the table does not have.
    """
    wanted = options.get(STATE_COLUMNS.name, "all").strip()
    if wanted == "used":
        return None
    names: list[str] = table.stored().names
    if wanted == "all":
        return names
    listed = [part.strip() for part in wanted.split(";")]
    for name in listed:
        if name not in names:
            close = nearest(name, names)
            hint = f"did you mean '{close}'?" if close else "'all', 'used', or columns with ';' between"
            raise OptionError(f"option '{STATE_COLUMNS.name}': {table.name} has no column '{name}'", hint=hint)
    return [n for n in names if n in listed]


def formats_of(options: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """(prefix of its options, name) of each format that a table uses."""
    if "format" in options:
        yield "", options["format"]
    for side in ("key", "value"):
        if f"{side}.format" in options:
            yield f"{side}.", options[f"{side}.format"]
            if side == "value":
                yield "", options["value.format"]
