"""How much memory there is, by control groups of either version."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.engine import limits


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": "5000000", "a/b/memory.max": "max", "memory.max": "9000000"}, 5_000_000),
        ("0::/\n", {"memory.max": "7000000"}, 7_000_000),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "3000000"}, 3_000_000),
        ("3:cpu,memory:/a/b\n2:cpu:/c\n", {"memory/a/memory.limit_in_bytes": "4000000"}, 4_000_000),
        ("2:cpu:/c\n", {"memory/c/memory.limit_in_bytes": "1"}, None),
        ("0::/a\n", {}, None),
    ],
)
def test_the_least_limit_counts(
    own: str, files: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(limits, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(limits, "_OWN", tmp_path / "own")
    if expected is None:
        assert limits.memory() > 1 << 28
        assert limits.cache() > 1 << 20
    else:
        assert limits.memory() == expected
        assert limits.cache() == 0, "the process has more than that"


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_OWN", tmp_path / "no")
    monkeypatch.setattr(limits, "_FREE", tmp_path / "no")
    assert limits.memory() > 1 << 28 and limits.cache() == 0
