"""'state.keep' = 'true' on a table: what joins have stored of it stays, and follows its source, when the last job leaves.

Such state is held by a job of its own that has no output; the catalog remembers which, so a restart holds it again. It goes when
the option is taken back or the table dropped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from forebay.bound import as_bound, definitions
from forebay.context import Context
from forebay.engine.operators.join import ArrangeOperator
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.plan import JobPlan, Step
from forebay.planner.jobs import KeptState
from forebay.planner.nodes import Scan
from forebay.planner.physical import Lowering
from forebay.planner.tableoptions import STATE_KEEP
from forebay.planner.tables import Table


class Keeping:
    """Holds what tables with the option have in state."""

    def __init__(self, context: Context, lowering: Callable[[Scan], Lowering]) -> None:
        self._driver = context.driver
        self._catalog = context.catalog
        self._relations = context.relations
        self._registry = context.registry
        self._lowering = lowering

    def leaving(self, job: str) -> None:
        """A job is about to be removed: take over what its tables want to keep and nobody else has."""
        with self._driver.boundary() as flow:
            for node in flow.nodes_of(job):
                kept = self._kept(node) if node.jobs == {job} else None
                if kept is None:
                    continue
                step = self._step(kept)
                if step.key == node.key:
                    self._driver.keep(kept.name, step, node)
                    self._catalog.kept[kept.name] = kept

    def _kept(self, node: Node) -> KeptState | None:
        operator, below = node.operator, node.inputs
        while below and below[0].scan is None and len(below[0].inputs) == 1:
            below = below[0].inputs
        scan = below[0].scan if len(below) == 1 else None
        if not isinstance(operator, ArrangeOperator) or node.relation is not None or scan is None or node.key is None:
            return None
        table = self._catalog.relations.get(scan.spec.table)
        if not isinstance(table, Table) or table.options.get(STATE_KEEP.name) != "true":
            return None
        arrangement = operator.arrangement
        key = tuple(arrangement.schema.field(k).name for k in arrangement.key)
        stored = self._relations.stored(table.name, ())
        if stored is None or not set(key) <= set(stored.names):
            return None
        bound = definitions(self._catalog, f"SELECT 1 FROM `{table.name}`")
        return KeptState(table.name, key, arrangement.stamped, bound)

    def _step(self, kept: KeptState) -> Step:
        schema = self._relations.stored(kept.table, ())
        assert schema is not None
        scan = Scan(schema, kept.table, tuple(schema.names))
        return self._lowering(scan).kept(scan, tuple(schema.get_field_index(k) for k in kept.key), kept.stamped)

    def reopen(
        self,
        saved: Iterable[Mapping[str, Any]],
        placements: Mapping[str, Mapping[str, str]],
        scans: Mapping[str, Any],
    ) -> list[Callable[[], None]]:
        """Hold again what was held; what is to be done once states are loaded."""
        late: list[Callable[[], None]] = []
        for value in saved:
            kept = KeptState.from_json(value)
            self._catalog.kept[kept.name] = kept
            placement = placements.get(kept.name)
            if placement is None:
                late.append(functools.partial(self._hold, kept, None, {}))
            else:
                self._hold(kept, placement, scans)
        return late

    def _hold(self, kept: KeptState, placement: Mapping[str, str] | None, scans: Mapping[str, Any]) -> None:
        with as_bound(self._catalog, self._registry, self._relations, kept.bound):
            step = self._step(kept)
        self._driver.hold(kept.name, step, placement, scans)

    def plan(self, kept: KeptState, bound: Mapping[str, str]) -> JobPlan:
        """What would hold it if its table were defined so."""
        with as_bound(self._catalog, self._registry, self._relations, bound):
            return JobPlan((self._step(kept),))

    def release(self, table: str) -> None:
        """Let go of what is held of a table."""
        for kept in [k for k in self._catalog.kept.values() if k.table == table]:
            self._driver.detach(kept.name)
            del self._catalog.kept[kept.name]
