"""The default registry: what it names, that everything is documented, and that every kill point is reached by a test."""

from __future__ import annotations

from pathlib import Path

import pytest

import forebay.connectors.kafka.sink  # noqa: F401 - it has kill points
from forebay.connectors import default_registry
from forebay.engine.errors import OptionError
from forebay.engine.files import KILL_POINTS
from forebay.engine.secrets import is_secret

REGISTRY = default_registry()


def test_everything_is_there() -> None:
    known = {"nexmark", "datagen", "print", "blackhole", "log", "upsert-log", "filesystem"}
    assert known <= set(REGISTRY.connectors)
    assert "parquet" in REGISTRY.formats
    assert all(c.name == name for name, c in REGISTRY.connectors.items())
    assert all(f.name == name for name, f in REGISTRY.formats.items())
    with pytest.raises(OptionError, match="did you mean 'upsert-log'"):
        REGISTRY.connector("upsertlog")


@pytest.mark.parametrize("name", sorted({*REGISTRY.connectors, *REGISTRY.formats}))
def test_options_are_documented_and_their_defaults_are_choices(name: str) -> None:
    owner = REGISTRY.connectors.get(name) or REGISTRY.formats[name]
    names = [o.name for o in owner.options]
    assert len(names) == len(set(names))
    for option in owner.options:
        assert option.doc
        assert option.default is None or not option.choices or option.default in option.choices
        assert not (option.required and option.default is not None)
        assert option.secret == is_secret(option.name)


def test_kill_points_of_the_connectors_are_those_that_crash_tests_go_through() -> None:
    """The crash tests run over every declared name of their module; a name that is used must be declared."""
    root = Path(__file__).parent.parent.parent / "connectors"
    used = {
        line.split('"')[1]
        for path in root.rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith("kill_point(")
    }
    assert used <= KILL_POINTS
    assert {p for p in KILL_POINTS if p.split(".")[0] in ("topiclog", "filesink")} <= used
