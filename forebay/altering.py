"""ALTER JOB: its options, and what it tells about what becomes of a job's state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from forebay.engine.connector import Option, check_options
from forebay.engine.errors import OptionError
from forebay.engine.runtime.alter import Change, Comparison

LOSE = "allow-state-loss"
OUTPUT = "sink.output"
_OPTIONS = (
    Option(LOSE, "whether what cannot be made from other state may begin empty", choices=("true", "false")),
    Option(
        OUTPUT,
        "'difference': sinks get what makes the old result the new one; 'changes': only what changes from here on",
        choices=("changes", "difference"),
    ),
)
_VIEW_OPTIONS = (_OPTIONS[0],)
_MEANING = {
    Change.AS_IS: "nothing that remembers changes",
    Change.AFTER_RENAME: "only names change",
    Change.REBUILD_PART: "part of the state is made anew from the rest",
    Change.INCOMPATIBLE: "something begins empty, for nothing knows what it has to remember",
}


def checked(options: Mapping[str, str], append_only: bool) -> tuple[bool, bool]:
    """(state may be lost, sinks get the difference) as the options say; `append_only`: a sink takes insertions only.

    Raises:
        OptionError: an option is unknown or does not fit.
    """
    check_options(options, _OPTIONS, (), "ALTER JOB")
    lose, output = options.get(LOSE, "false"), options.get(OUTPUT, "changes" if append_only else "difference")
    if output == "difference" and append_only:
        raise OptionError(
            f"option '{OUTPUT}' cannot be 'difference': a sink takes insertions only", hint="leave it out, or 'changes'"
        )
    return lose == "true", output == "difference"


def view_options(options: Mapping[str, str]) -> bool:
    """Whether a materialized view's state may be lost, as the options say.

    Raises:
        OptionError: an option is unknown or does not fit.
    """
    check_options(options, _VIEW_OPTIONS, (), "ALTER MATERIALIZED VIEW")
    return options.get(LOSE, "false") == "true"


def told(found: Comparison, difference: bool | None) -> list[str]:
    """Lines for people: the class, what is kept, made and dropped, and what sinks get; `difference` None: of a view."""
    lines = [f"{found.change.value}: {_MEANING[found.change]}"]
    for what, labels in (("kept", found.kept), ("made anew", found.made), ("dropped", found.dropped)):
        if labels:
            lines.append(f"{what}: {_listed(labels)}")
    lines += [f"begins empty: {what}, for {source} does not know its past" for what, source in found.lost.items()]
    if difference is None:
        return [*lines, "the view shows the new result, and its readers get the difference"]
    got = "what makes the old result the new one" if difference else "what changes from here on"
    return [*lines, f"sinks get: {got}"]


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(f"{label} x {n}" if n > 1 else label for label, n in Counter(labels).items())
