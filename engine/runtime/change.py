"""Putting another plan in the place of a job's, at an epoch boundary. `alter` says what is kept; here it is carried out.

The new plan's nodes are made beside those that run, from the pasts of what they stand on; only when that has
succeeded are outlets handed over and old nodes removed. So an exception leaves everything as it was.

A sink's outlet goes over and gets, at that instant, the difference of the two results, or nothing. A materialized view is an
outlet that can tell what it has got: its node stays, with all that read it, turns to its new input, and shows its readers the
difference. Its columns may change only while nobody reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.consolidate import consolidate
from forebay.engine.errors import StateError
from forebay.engine.operators.base import Turn
from forebay.engine.operators.horizon import Horizon
from forebay.engine.operators.join import ArrangeOperator
from forebay.engine.runtime.alter import Choice, Comparison, compare, unknown_past
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.graph import Attachment
from forebay.engine.runtime.initial import Initial
from forebay.engine.runtime.node import Node
from forebay.engine.runtime.outbox import Outlet
from forebay.engine.runtime.plan import JobPlan, OperatorStep, OutputStep, ScanStep

MANY = 1 << 20
"""Changes of a result that are held before they are netted."""
Results = dict[str, list[Batch]]
"""All rows of each output, by its path."""


@dataclass(frozen=True, slots=True)
class _View:
    """A materialized view that is an output of the plan."""

    step: OperatorStep
    node: Node
    shown: ArrangeOperator
    """What holds its rows."""
    operator: ArrangeOperator
    """What will: the same, unless columns or key change."""

    @property
    def path(self) -> str:
        return self.step.path


def change(
    flow: Dataflow, job: str, plan: JobPlan, former: JobPlan | None, now: int, *, lose: bool
) -> tuple[Comparison, bool]:
    """Put `plan` in the place of a job's, at this boundary. Outlets of the same path go over to it.

    `former`: its plan as it is; then sinks get the difference of the two results, if both can be told, else (or if None)
    only what changes from here on. Returns what became of the steps, and whether outlets got the difference.

    Raises:
        StateError: some state can only begin empty, and not `lose`; or the columns of an output change that is read.
    """
    return _Change(flow, job, plan, now).carry_out(former, lose=lose)


def in_pieces(flow: Dataflow, placed: Attachment, views: Mapping[str, Node], *, results: bool) -> Results:
    """As `at_once`, in memory that does not grow with the past, where no row of it can have expired."""
    choices = (placed.choices or {}).values()
    specs = {id(c.node): c.step.scan for c in choices if c.node is not None and isinstance(c.step, ScanStep)}
    ends = [Node(path, path, [node], set(), outlet=_Collected(), path=path) for path, node in views.items()]
    own = [(n, n.outlet, n.state_only) for n in placed.fresh if n.outlet is not None]
    for node, _, _ in own:
        node.outlet, node.state_only = _Collected(), not results
    try:
        Initial(flow, [*placed.fresh, *ends], placed.now, placed.elders(), specs).run()
        return {n.path: n.outlet.rows for n in (*ends, *(o[0] for o in own)) if isinstance(n.outlet, _Collected)}
    finally:
        for node, outlet, state_only in own:
            node.outlet, node.state_only = outlet, state_only


def brought_up(flow: Dataflow, placed: Attachment, views: Mapping[str, Node], *, results: bool) -> Results:
    """Let new nodes take in the past. Returns what their outlets would get (if `results`), and what the nodes in `views` have, by
    path: nobody gets it yet."""
    timed = any(isinstance(s, Horizon) and s for n in placed.fresh for s in n.states().values())
    return (at_once if timed else in_pieces)(flow, placed, views, results=results)


def at_once(flow: Dataflow, placed: Attachment, views: Mapping[str, Node], *, results: bool) -> Results:
    """`brought_up` in one step, by the present watermarks: what has expired by now is not taken in."""
    fresh: list[Node] = placed.fresh
    ends: Results = {}
    wanted = {id(node): path for path, node in views.items()}
    useful = _useful(fresh, wanted.keys(), results)
    for node in [n for n in fresh if id(n) in useful]:
        inputs = [i.output if i in fresh else _asked(flow, i, node, placed) for i in node.inputs]
        watermarks = tuple(i.watermark for i in node.inputs)
        if node.scan is not None:
            node.output = _continued(flow, node, placed)
        elif node.outlet is not None:
            ends[node.path] = node.named(inputs[0])
        elif node.operator is not None:
            node.output = node.operator.process(inputs, Turn(flow.epoch, placed.now, watermarks, initial=True))
            node.watermark = node.operator.watermark(watermarks)
        if id(node) in wanted:
            ends[wanted[id(node)]] = node.output
    for path, node in views.items():
        if path not in ends:
            ends[path] = list(flow.graph.past(node) or ())
    for node in fresh:
        node.commit()
        node.output = []
    return ends


def _useful(fresh: list[Node], wanted: Collection[int], results: bool) -> set[int]:
    """Nodes whose work leaves something behind: state of their own, or rows that are asked for."""
    useful: set[int] = set()
    for node in reversed(fresh):
        keeps = results if node.outlet is not None else bool(node.states()) or id(node) in wanted
        if keeps or any(id(n) in useful for n in fresh if any(i is node for i in n.inputs)):
            useful.add(id(node))
    return useful


def _asked(flow: Dataflow, source: Node, node: Node, placed: Attachment) -> list[Batch]:
    """The past of a running node, if the new node above it has to know it."""
    choices = placed.choices or {}
    if placed.choices is not None and not (node.remembers or choices[node.path].need):
        return []
    scans = (c.step.scan for c in choices.values() if c.node is source and isinstance(c.step, ScanStep))
    return list(flow.graph.past(source, next(scans, None)) or ())


def _continued(flow: Dataflow, node: Node, placed: Attachment) -> list[Batch]:
    """The past of a scan of this table from before it had its present columns."""
    choice = placed.choices.get(node.path) if placed.choices is not None else None
    if choice is None or choice.continues is None or not choice.need or node.scan is None:
        return []
    return list(flow.graph.past(choice.continues, node.scan.spec) or ())


class _Change:
    def __init__(self, flow: Dataflow, job: str, plan: JobPlan, now: int) -> None:
        self._flow = flow
        self._job = job
        self._plan = plan
        self._now = now
        self._views = [_view(flow, s) for s in plan.outputs if isinstance(s, OperatorStep) and s.relation is not None]

    def carry_out(self, former: JobPlan | None, *, lose: bool) -> tuple[Comparison, bool]:
        whole = compare(self._flow, self._job, self._plan, whole=True)
        found = whole if self._views else compare(self._flow, self._job, self._plan)
        if found.lost and not lose:
            raise unknown_past(self._job, found)
        self._refuse_other_columns()
        before: Results | None = None
        if self._views:
            before = {v.path: list(v.node.contents() or ()) for v in self._views if not self._same(v)}
        elif former is not None and not whole.lost:
            before = self._result(former)
        choices = (found if before is None else whole).choices
        self._swap(choices, before)
        return found, before is not None

    def _same(self, view: _View) -> bool:
        """Its input is what it was, and so are its rows."""
        source = self._flow.graph.own_nodes(self._job).get(view.step.sources[0].print)
        return view.operator is view.shown and source is not None and source is view.node.inputs[0]

    def _refuse_other_columns(self) -> None:
        placed = self._flow.graph.placed[self._job]
        for output in self._plan.outputs:
            known = placed.get(output.path)
            if known is not None and known.outlet is not None and known.schema != output.schema:
                raise StateError(f"the columns of {output.label} have changed", hint="drop the job and make it anew")
        for view in self._views:
            if view.operator.schema != view.shown.schema and self._flow.graph.is_read(view.step.relation or ""):
                raise StateError(
                    f"the columns of {view.step.label} would change, and it is read",
                    detail=f"{_columns(view.shown.schema)} would become {_columns(view.operator.schema)}",
                    hint="give the same columns, or drop what reads the view first",
                )

    def _swap(self, choices: Mapping[str, Choice], before: Results | None) -> None:
        flow, job = self._flow, self._job
        placed, old = flow.graph.placed[job], f"{job} as it was"
        outlets = {o.path: placed[o.path].outlet for o in self._plan.outputs if o.path in placed}
        flow.graph.give(job, old)
        fresh = Attachment(job, self._now, choices=choices, prefix=flow.graph.unused(job))
        fresh.outlets = {path: outlet for path, outlet in outlets.items() if outlet is not None}
        try:
            inputs, after = self._make(fresh, before)
            owed = self._owed(before, after)
        except BaseException:
            for node in fresh.fresh:
                node.outlet = None if node.path in fresh.outlets else node.outlet
            flow.graph.discard(job)
            flow.graph.give(old, job)
            flow.graph.placed[job] = placed
            raise
        for path in fresh.outlets:
            placed[path].outlet = None
        for view in self._views:
            fresh.nodes[view.path] = view.node
            view.node.jobs = {job}
            self._turn(view, inputs[view.path], before or {}, after.get(view.path, []))
        flow.graph.discard(old)
        for node in fresh.fresh:
            if node.outlet is not None and node.path in owed:
                node.outlet.take(owed[node.path], node.watermark, flow.epoch)
                node.outlet.commit()
        flow.graph.sort()
        flow.graph.note(job, self._plan, fresh.nodes)

    def _make(self, fresh: Attachment, before: Results | None) -> tuple[dict[str, Node], Results]:
        """The new nodes, with the past in them. Returns what feeds each view, and the results that are compared with `before`."""
        flow = self._flow
        inputs = {view.path: flow.graph.place(view.step.sources[0], fresh) for view in self._views}
        for output in self._plan.outputs:
            if output.path not in inputs:
                flow.graph.place(output, fresh)
        compared = {path: node for path, node in inputs.items() if path in (before or {})}
        return inputs, brought_up(flow, fresh, compared, results=before is not None)

    def _owed(self, before: Results | None, after: Results) -> Results:
        """What makes the old results of sinks the new ones."""
        owed: Results = {}
        for step in self._plan.outputs if before is not None else ():
            if isinstance(step, OutputStep):
                owed[step.path] = _difference((before or {}).get(step.path, []), after[step.path])
                if step.append and any((b.weight_array() < 0).any() for b in owed[step.path]):
                    raise StateError(f"{step.label} takes insertions only, and rows that it has got would go")
        return owed

    def _turn(self, view: _View, source: Node, before: Results, after: list[Batch]) -> None:
        """The view shows another result from now on, and owes its readers the difference."""
        flow, node, operator = self._flow, view.node, view.operator
        node.inputs, node.seen, node.print = [source], None, view.step.print
        if view.path not in before:
            return
        flow.epoch += 1
        rows = [_named(b, operator.schema) for b in after]
        if operator.schema == view.shown.schema:
            node.carried.extend(_difference(before[view.path], rows))
        if operator is view.shown:
            rows = node.carried
        else:
            node.operator = operator
            flow.graph.use_cold(node)
            operator.arrangement.renew()
            view.shown.arrangement.close()
        operator.process([rows], Turn(flow.epoch, self._now, (None,)))
        node.commit()
        node.version = flow.epoch

    def _result(self, plan: JobPlan) -> Results | None:
        """All rows that a running job's sinks have got, by path; None if that cannot be told."""
        flow = self._flow
        found = compare(flow, self._job, plan, whole=True)
        if found.lost:
            return None
        aside = Attachment(f"{self._job} looked at", self._now, choices=found.choices)
        aside.outlets = {o.path: _Collected() for o in plan.outputs}
        try:
            for output in plan.outputs:
                flow.graph.place(output, aside)
            return brought_up(flow, aside, {}, results=True)
        finally:
            flow.graph.discard(aside.job)


def _view(flow: Dataflow, step: OperatorStep) -> _View:
    node = flow.relation(step.relation or "")
    made, known = step.make([None]), node.operator
    assert isinstance(made, ArrangeOperator) and isinstance(known, ArrangeOperator)
    rows, had = made.arrangement, known.arrangement
    same = rows.schema == had.schema and (rows.key, rows.identity) == (had.key, had.identity)
    return _View(step, node, known, known if same else made)


def _difference(before: list[Batch], after: list[Batch]) -> list[Batch]:
    net = consolidate([*(b.negate() for b in before), *after])
    return [] if net is None else [net]


def _named(batch: Batch, schema: pa.Schema) -> Batch:
    return batch.with_rows(pa.RecordBatch.from_arrays(batch.rows.columns, schema=schema))


def _columns(schema: pa.Schema) -> str:
    return ", ".join(schema.names)


class _Collected(Outlet):
    """Takes the place of an outlet while its rows are only looked at."""

    def __init__(self) -> None:
        self.rows: list[Batch] = []
        self._open: list[Batch] = []
        self._many = MANY

    def take(self, batches: list[Batch], watermark: int | None, epoch: int) -> None:
        self._open.extend(batches)

    def commit(self) -> None:
        self.rows, self._open = [*self.rows, *self._open], []
        if sum(b.num_rows for b in self.rows) > self._many:
            net = consolidate(self.rows)
            self.rows = [] if net is None else [net]
            self._many = max(MANY, 2 * sum(b.num_rows for b in self.rows))

    def rollback(self) -> None:
        self._open = []
