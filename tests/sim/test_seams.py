"""Nothing becomes durable behind the simulator's back: what syncs or renames goes through `Files`, next to a kill point."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import forebay.connection
import forebay.connectors.kafka.sink  # noqa: F401 - these are all that have kill points
from forebay.connectors import default_registry
from forebay.engine.files import KILL_POINTS

ROOT = Path(__file__).parents[2]
MODULES = sorted(p for d in ("engine", "connectors", "forebay") for p in (ROOT / d).rglob("*.py") if not p.is_symlink())
BARE = re.compile(r"\bos\.(fsync|fdatasync|replace|rename|truncate)\b|\.rename\(")
LASTING = {"replace", "sync", "write"}


def calls(function: ast.AST) -> Iterator[tuple[str, str]]:
    """(what it is called on, name) of every call in a function."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield ast.unparse(node.func.value), node.func.attr
            elif isinstance(node.func, ast.Name):
                yield "", node.func.id


def test_only_the_file_layer_syncs_and_renames() -> None:
    found = [p for p in MODULES if BARE.search(p.read_text()) and p.name != "files.py"]
    assert not found


@pytest.mark.parametrize(
    "path", [p for p in MODULES if "iles." in p.read_text()], ids=lambda p: str(p.relative_to(ROOT))
)
def test_what_lasts_is_next_to_a_kill_point(path: Path) -> None:
    functions = {
        n.name: list(calls(n)) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)
    }
    guarded = {name for name, made in functions.items() if ("", "kill_point") in made}
    for name, made in functions.items():
        if any(on.endswith("files") and what in LASTING for on, what in made) and path.name not in (
            "files.py",
            "memory.py",
        ):
            callers = {other for other, theirs in functions.items() if ("self", name) in theirs}
            assert name in guarded or (callers and callers <= guarded), f"{path}: {name} has no kill point"


def test_every_kill_point_is_declared_and_every_declared_one_is_used() -> None:
    default_registry()
    used = {n for p in MODULES if p.name != "files.py" for n in re.findall(r'\bkill_point\("([^"]+)"\)', p.read_text())}
    assert used == KILL_POINTS
