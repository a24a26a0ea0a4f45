"""Session options (SET): names, types, defaults; durations and sizes as Flink writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from forebay.engine.errors import OptionError, nearest


@dataclass(frozen=True, slots=True)
class SessionOption:
    """`kind`: duration, size, count, mode or string."""

    name: str
    kind: str
    default: str
    doc: str


SESSION_OPTIONS = {
    o.name: o
    for o in (
        SessionOption("execution.checkpointing.interval", "duration", "5 s", "time between checkpoints"),
        SessionOption("execution.latency", "duration", "50 ms", "how long rows may wait to be processed together"),
        SessionOption(
            "execution.runtime-mode",
            "mode",
            "streaming",
            "whether INSERT .. SELECT runs on as data comes, or once over what is there ('batch')",
        ),
        SessionOption(
            "memory.budget",
            "size",
            "auto",
            "memory for state and rows under way; auto: half of what the machine or container has",
        ),
        SessionOption("pipeline.name", "string", "", "name of the next job; empty: derived from its sink"),
        SessionOption("sink.outbox.max", "size", "1GB", "rows that a sink may owe before its job's sources wait"),
        SessionOption(
            "state.checkpoints.num-retained", "count", "2", "checkpoints kept, to fall back to if the newest is damaged"
        ),
        SessionOption("state.retain.max", "size", "256MB", "changes kept for a failed job, so that it can be resumed"),
        SessionOption(
            "table.exec.source.idle-timeout", "duration", "0 ms", "a split silent so long holds no watermark"
        ),
        SessionOption(
            "table.exec.state.ttl",
            "duration",
            "0 ms",
            "how long state lives that is not used, unless a hint or the table says otherwise; 0: for ever",
        ),
        SessionOption(
            "watermark.max-future", "duration", "1 d", "event times further ahead of the clock move no watermark"
        ),
    )
}

_DURATIONS = {
    "": 1000, "ns": 1e-3, "us": 1, "ms": 1000, "s": 10**6, "sec": 10**6, "second": 10**6, "seconds": 10**6,
    "min": 60 * 10**6, "m": 60 * 10**6, "minute": 60 * 10**6, "minutes": 60 * 10**6, "h": 3600 * 10**6,
    "hour": 3600 * 10**6, "hours": 3600 * 10**6, "d": 86400 * 10**6, "day": 86400 * 10**6, "days": 86400 * 10**6,
}  # fmt: skip
_POWERS = {"k": 10, "m": 20, "g": 30, "t": 40}
_SIZES = {"": 1, "b": 1, **{k + b: 1 << p for k, p in _POWERS.items() for b in ("", "b")}}
_NUMBER = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*$")


def duration(text: str) -> int:
    """'5 s', '10 min', '1d', '500ms' in µs; a bare number is milliseconds.

    Raises:
        OptionError: it is no duration.
    """
    return int(_scaled(text, _DURATIONS, "a duration such as '5 s', '500 ms' or '1 d'"))


def size(text: str) -> int:
    """'1GB', '512 mb' in bytes.

    Raises:
        OptionError: it is no size.
    """
    return int(_scaled(text, _SIZES, "a size such as '512MB' or '2GB'"))


def _scaled(text: str, units: Mapping[str, float], wanted: str) -> float:
    found = _NUMBER.match(text)
    if found is None or found.group(2).lower() not in units:
        raise OptionError(f"'{text}' is not {wanted}")
    return float(found.group(1)) * units[found.group(2).lower()]


class Options:
    """The options of a session."""

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self.given: dict[str, str] = {}
        for name, value in (given or {}).items():
            self.set(name, value)

    def set(self, name: str, value: str) -> None:
        """Set an option.

        Raises:
            OptionError: it is unknown or the value does not fit.
        """
        option, value = self._option(name), str(value)
        if option.kind == "duration":
            duration(value)
        elif option.kind == "size" and value != option.default:
            size(value)
        elif option.kind == "count" and not (value.isdigit() and int(value) > 0):
            raise OptionError(f"'{value}' is not a number above 0")
        elif option.kind == "mode" and value not in ("streaming", "batch"):
            raise OptionError(f"option '{name}' cannot be '{value}'", hint="one of: streaming, batch")
        self.given[name] = value

    def reset(self, name: str | None) -> None:
        """Back to the default: one option, or all."""
        if name is None:
            self.given.clear()
        else:
            self._option(name)
            self.given.pop(name, None)

    def get(self, name: str) -> str:
        """The value as text."""
        return self.given.get(name, self._option(name).default)

    def budget(self) -> int | None:
        """The memory budget in bytes; None for a share of the machine."""
        value = self.get("memory.budget")
        return None if value == "auto" else size(value)

    def micros(self, name: str) -> int:
        """A duration in µs."""
        return duration(self.get(name))

    def bytes(self, name: str) -> int:
        """A size in bytes."""
        return size(self.get(name))

    def count(self, name: str) -> int:
        """A number above 0."""
        return int(self.get(name))

    @staticmethod
    def _option(name: str) -> SessionOption:
        if name not in SESSION_OPTIONS:
            close = nearest(name, SESSION_OPTIONS)
            hint = f"did you mean '{close}'?" if close else "SET lists the options"
            raise OptionError(f"unknown option '{name}'", hint=hint)
        return SESSION_OPTIONS[name]
