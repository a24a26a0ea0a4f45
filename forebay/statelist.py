"""SHOW STATE: each piece of state with its owners, its tiers, and how well what is on disk is found.

Counters (hits, amplification, unmatched retractions) are those of this process. Nothing on disk is read for it.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from forebay.engine.operators.base import MAX_WATERMARK
from forebay.engine.operators.expiry import GroupingOperator
from forebay.engine.operators.join import JoinOperator
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.serve.inspect import NamedState, named_states
from forebay.engine.state import Segmented
from forebay.planner.explain import duration

_TEXT, _LONG, _SHARE = pa.string(), pa.int64(), pa.float64()
_STATE = pa.schema(
    [
        ("name", _TEXT), ("node", _TEXT), ("jobs", _TEXT), ("key", _TEXT), ("columns", _TEXT), ("rows", _LONG),
        ("bytes", _LONG), ("cold_rows", _LONG), ("dead_rows", _LONG), ("segments", _LONG), ("disk_bytes", _LONG),
        ("oldest", pa.timestamp("ms", "UTC")), ("memory_hits", _SHARE), ("filter_passed", _SHARE), ("cache_hits", _SHARE),
        ("write_amplification", _SHARE), ("retractions_unmatched", _LONG), ("ttl", _TEXT),
    ]
)  # fmt: skip


def state_table(flow: Dataflow) -> pa.Table:
    """A row per piece of state, in the order of the dataflow. Call it at an epoch boundary."""
    ttls = _ttls(flow)
    return pa.Table.from_pylist([_row(flow, named, ttls) for named in named_states(flow).values()], _STATE)


def _row(flow: Dataflow, named: NamedState, ttls: dict[int, str]) -> dict[str, Any]:
    jobs = named.node.jobs or {job for n in flow.order if named.node in n.inputs for job in n.jobs}
    return {
        "name": named.name,
        "node": named.node.label,
        "jobs": ", ".join(sorted(jobs)),
        "key": ", ".join(named.key),
        "columns": ", ".join(named.schema.names),
        "rows": named.state.rows(),
        "bytes": named.state.nbytes(),
        "oldest": named.oldest(),
        "ttl": ttls.get(id(named.state)),
        **_tiers(named),
    }


def _tiers(named: NamedState) -> dict[str, Any]:
    """What is on disk, and how well it is found."""
    state: object = named.state
    if not isinstance(state, Segmented):
        return {}
    told = {"memory_hits": state.memory_hits(), "retractions_unmatched": state.unmatched}
    cold = state.on_disk
    if cold is None:
        return told
    segments = state.cold_segments()
    asked = sum(s.places.asked for s in segments)
    return {
        **told,
        "cold_rows": cold.live_rows(),
        "dead_rows": cold.rows() - cold.live_rows(),
        "segments": len(segments),
        "disk_bytes": sum(s.nbytes_on_disk for s in segments),
        "filter_passed": _share(sum(s.passed for s in segments), sum(s.asked for s in segments)),
        "cache_hits": _share(asked - sum(s.places.read for s in segments), asked),
        "write_amplification": cold.write_amplification(),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _ttls(flow: Dataflow) -> dict[int, str]:
    """Per state how long its rows live: of an arrangement for those who read it, the longest first; by `id`."""
    found: dict[int, set[int]] = {}
    for node in flow.order:
        if isinstance(node.operator, JoinOperator):
            for arrangement, ttl in node.operator.lifetimes():
                found.setdefault(id(arrangement), set()).add(MAX_WATERMARK if ttl is None else ttl)
        elif isinstance(node.operator, GroupingOperator) and node.operator.expiry is not None:
            ttl = node.operator.expiry.lives[0].ttl
            found |= {id(state): {MAX_WATERMARK if ttl is None else ttl} for state in node.states().values()}
    return {
        key: ", ".join("for ever" if t == MAX_WATERMARK else duration(t) for t in sorted(ttls, reverse=True))
        for key, ttls in found.items()
    }
