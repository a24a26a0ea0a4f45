"""Both kinds of session and of job handle offer exactly what the contract says, under the same signatures."""

from __future__ import annotations

import inspect

import pytest

from forebay.connection import Connection
from forebay.jobs import Job
from forebay.remote.client import AttachedConnection, AttachedJob
from forebay.session import JobHandle, Session

OWNERS_OWN = {"serve"}
TRANSPORT = {"ask"}


def public(kind: type) -> dict[str, str]:
    """Public methods and properties with their signatures."""
    found = {}
    for name, member in inspect.getmembers(kind):
        if name.startswith("_"):
            continue
        function = member.fget if isinstance(member, property) else member
        signature = inspect.signature(function)
        parameters = [(p.name, p.kind, p.default, p.annotation) for p in signature.parameters.values()]
        found[name] = str(parameters) if name == "jobs" else f"{parameters} -> {signature.return_annotation}"
    return found


@pytest.mark.parametrize(
    ("kind", "contract", "more"),
    [
        (Connection, Session, OWNERS_OWN),
        (AttachedConnection, Session, TRANSPORT),
        (Job, JobHandle, set()),
        (AttachedJob, JobHandle, set()),
    ],
)
def test_the_contract_is_kept(kind: type, contract: type, more: set[str]) -> None:
    assert {n: s for n, s in public(kind).items() if n not in more} == public(contract)
    assert not inspect.isabstract(kind)
    assert all(inspect.getdoc(getattr(kind, name)) for name in public(contract))
