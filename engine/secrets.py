"""Options whose values nobody shall see: told by their names, and hidden wherever they are shown or logged."""

from __future__ import annotations

import re
from collections.abc import Mapping

SECRET_WORDS = ("password", "secret", "sasl.jaas.config", "token", "credential")
_OPTION = re.compile(r"'((?:[^']|'')*)'(\s*=\s*)'((?:[^']|'')*)'")


def is_secret(name: str) -> bool:
    """True for an option whose value must be masked wherever it is shown."""
    return any(word in name.lower() for word in SECRET_WORDS)


def masked(options: Mapping[str, str]) -> dict[str, str]:
    """The options with secret values replaced by stars."""
    return {k: "******" if is_secret(k) else v for k, v in options.items()}


def hidden(sql: str) -> str:
    """A statement's text with a star for each character of a secret value: places in it stay what they are."""

    def hide(option: re.Match[str]) -> str:
        name, equals, value = option.groups()
        return f"'{name}'{equals}'{re.sub('.', '*', value)}'" if is_secret(name) else option[0]

    return _OPTION.sub(hide, sql)
