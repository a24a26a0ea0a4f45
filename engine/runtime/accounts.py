"""What the memory of a warehouse is used for, in bytes by account.

Every operator's state counts itself: rows, indexes, hash tables, filters and fences of what is cold. What is beside the
dataflow (snapshots that queries pinned, builds of a bootstrap) is a *holder*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.outbox import Outbox
from forebay.engine.state import Tiered
from forebay.engine.state.coldstore import ColdStore

FREE = "free"
"""The account of what keyed states hold for rows to come: it is theirs, but sealing would not make it less."""


class Holder(Protocol):
    """Something beside the dataflow that holds memory of the budget."""

    def nbytes(self) -> int:
        """Bytes held now."""

    def give_back(self) -> None:
        """Let go of what can be made again; called between epochs when memory is tight."""


def accounts(flow: Dataflow, cold: ColdStore, holders: Mapping[str, Holder]) -> dict[str, int]:
    """Bytes by account; the sum is what the warehouse has of the process's memory, but for what an epoch makes and forgets."""
    found = {"state": 0, FREE: 0, "sinks": 0, "sources": 0, "cold cache": cold.nbytes()}
    for node in flow.order:
        busy, free = _states(node)
        found["state"] += busy
        found[FREE] += free
        if isinstance(node.outlet, Outbox):
            found["sinks"] += node.outlet.held()
        if node.scan is not None:
            found["sources"] += node.scan.reader.nbytes()
    found["missed by failed jobs"] = sum(unit.backlog.nbytes() for unit in flow.parking.units())
    return found | {name: holder.nbytes() for name, holder in holders.items()}


def _states(node: Node) -> tuple[int, int]:
    """Bytes that rows of its states use, and that are free for rows to come."""
    states = node.states().values()
    free = sum(s.idle_bytes() for s in states if isinstance(s, Tiered))
    return sum(s.nbytes() for s in states) - free, free


def busy_bytes(node: Node) -> int:
    """Bytes that a node's state uses."""
    return _states(node)[0]


def told(found: Mapping[str, int]) -> str:
    """The accounts in words, the largest first; those with less than 1 MB are left out."""
    largest = sorted(found.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {size >> 20} MB" for name, size in largest if size >> 20) or "next to nothing"
