"""The JIT policy, in one place: flags, the cache directory, and how a kernel is declared.

Kernels have explicit signatures, compile at import and load from an on-disk cache afterwards. Numba does not notice an
edited helper in another module, so the cache directory is named by a hash of every kernel source, numba and the CPU.
`NUMBA_DISABLE_JIT=1` runs every kernel as plain Python except those built on raw addresses (`kernels.memory`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import njit

__all__ = ["CACHE_DIR", "inline", "kernel", "routine"]


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    digest.update(f"{numba.__version__} {platform.python_version()} {llvm.get_host_cpu_name()}".encode())
    return digest.hexdigest()[:16]


def _cache_dir() -> Path:
    root = os.environ.get("FOREBAY_CACHE_DIR")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "forebay"
    path = base / f"kernels-{_fingerprint()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError:
        return Path(tempfile.mkdtemp(prefix="forebay-kernels-"))
    return Path(tempfile.mkdtemp(prefix="forebay-kernels-"))


CACHE_DIR = _cache_dir()
numba.config.CACHE_DIR = str(CACHE_DIR)

_LOG = logging.getLogger("forebay.kernels")
_cached = {path.name.partition("-")[0] for path in CACHE_DIR.glob("*/*.nbi")}
"""Kernels that were compiled earlier, as 'module.function'."""
_told = False


def _tell(function: Callable[..., Any]) -> None:
    """Say why it takes long, once: a first start is silent for seconds otherwise."""
    global _told
    module = function.__module__.rpartition(".")[2]
    if not _told and f"{module}.{function.__qualname__}" not in _cached:
        _told = True
        _LOG.info("compiling kernels: some seconds, once on this machine")


def kernel(*signatures: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile with the given signature(s): GIL released, cached, unchecked, numpy division."""
    declared = list(signatures) if len(signatures) > 1 else signatures[0]
    compiled = njit(declared, nogil=True, cache=True, boundscheck=False, error_model="numpy")

    def compile(function: Callable[..., Any]) -> Any:
        _tell(function)
        return compiled(function)

    return compile


def inline(function: Callable[..., Any]) -> Any:
    """A small function inlined into the kernels that call it."""
    return njit(function, inline="always", nogil=True, error_model="numpy")


def routine(function: Callable[..., Any]) -> Any:
    """A function that kernels call, typed by its callers; whether to inline it is left to LLVM.

    For bodies of more than a few lines: numba's own inlining of nested ones costs seconds of compile time.
    """
    return njit(function, nogil=True, error_model="numpy")
