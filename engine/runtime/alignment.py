"""Watermark alignment: the scans of one group are read at one pace, as with Flink's option of that name.

A scan whose watermark is further ahead of the group's least than its drift allows is not polled; the others are polled once
before the next look, so that one is ahead by the drift and what a poll brings, at most. A scan that has come to the end of what
there is to read holds nobody back; one that has not told a watermark yet holds everybody. Scans that catch up for a late job
keep pace with each other, and not with those that run.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from forebay.engine.operators.base import MAX_WATERMARK
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.scan import Scan

_UNKNOWN = -MAX_WATERMARK


def ahead(nodes: Iterable[Node]) -> set[str]:
    """The ids of the scans that must wait."""
    members = [(node, node.scan, _group(node)) for node in nodes if node.scan is not None and _group(node) is not None]
    least: dict[Hashable, int] = {}
    for _, scan, group in members:
        if scan.behind():
            least[group] = min(least.get(group, MAX_WATERMARK), _watermark(scan))
    return {
        node.id for node, scan, group in members if _watermark(scan) > least.get(group, MAX_WATERMARK) + _drift(scan)
    }


def aligned(node: Node) -> bool:
    """Whether the scan keeps pace with others."""
    return _group(node) is not None


def _group(node: Node) -> Hashable | None:
    spec = node.scan.spec.watermark if node.scan is not None else None
    if node.scan is None or spec is None or spec.group is None:
        return None
    return spec.group, frozenset(node.jobs) if node.scan.catching_up else None


def _watermark(scan: Scan) -> int:
    told = None if scan.tracker is None else scan.tracker.told
    return _UNKNOWN if told is None else told


def _drift(scan: Scan) -> int:
    return 0 if scan.spec.watermark is None else scan.spec.watermark.max_drift
