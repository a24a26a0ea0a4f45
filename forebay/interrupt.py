"""Calling a statement off: what waits within one asks, between epochs, whether its caller still wants the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from forebay.engine.errors import Domain, ForebayError


class StatementCancelledError(ForebayError):
    """The caller has called the statement off, or is gone."""

    domain = Domain.USER


_called_off: ContextVar[Callable[[], bool] | None] = ContextVar("called_off", default=None)


@contextmanager
def interruptible(called_off: Callable[[], bool]) -> Iterator[None]:
    """Within the block, waits end once `called_off()` is true."""
    token = _called_off.set(called_off)
    try:
        yield
    finally:
        _called_off.reset(token)


def unless_interrupted(done: Callable[[], bool]) -> Callable[[], bool]:
    """The condition, raising StatementCancelledError when it is asked after the statement was called off."""
    called_off = _called_off.get()

    def check() -> bool:
        if called_off is not None and called_off():
            raise StatementCancelledError("the statement was cancelled")
        return done()

    return check
