"""The layout's promises: imports run one way, no bare top-level package names, kernels import numpy and numba only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "kernels": {"kernels"},
    "engine": {"engine", "kernels"},
    "planner": {"planner", "engine", "kernels"},
    "connectors": {"connectors", "engine", "kernels"},
}
LAYERS = [p for layer in ALLOWED for p in sorted((ROOT / layer).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", LAYERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] not in ALLOWED, f"{path} imports bare '{name}'; write forebay.{name}"
        if parts[0] == "forebay":
            assert len(parts) > 1 and parts[1] in ALLOWED[layer], f"{path} may not import {name}"
        elif layer == "kernels":
            assert parts[0] in {"numpy", "numba", "llvmlite", "__future__"} or parts[0] in STDLIB_OF_KERNELS, name


STDLIB_OF_KERNELS = {
    "hashlib",
    "logging",
    "os",
    "platform",
    "tempfile",
    "collections",
    "pathlib",
    "typing",
    "importlib",
    "sys",
    "math",
}


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_root_folders_have_one_import_name(name: str) -> None:
    assert (ROOT / "forebay" / name).is_symlink()
