"""How much a step of a plan gives, as far as can be told before it runs: rows now, rows to come, and what they look like.

Sources say how many records they hold and how fast more come; a *sample* of their rows goes through the plan's own filters and
projections, made aside, so that what they let through, how wide rows are and how many keys they have is measured where it can
be. What is a guess is called one: each volume says what it was told from, and how sure that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from forebay.engine.batch import Batch
from forebay.engine.connector import Fetched, Rate, Reader, Source
from forebay.engine.consolidate import group_rows
from forebay.engine.errors import ForebayError
from forebay.engine.operators.aside import made_of
from forebay.engine.operators.base import Operator
from forebay.engine.operators.join import JoinOperator
from forebay.engine.operators.lens import Lens
from forebay.engine.operators.rank import RankOperator
from forebay.engine.runtime.dataflow import Dataflow
from forebay.engine.runtime.plan import JobPlan, OperatorStep, RelationStep, ScanStep, Step

SAMPLE = 8192
_POLLS, _WAIT = 10, 0.2
"""How often a source is polled for its sample, and for how long, in seconds."""
COUNTED, MEASURED, SAMPLED, GUESS, UNKNOWN = "counted", "measured", "sampled", "guess", "unknown"
_SURE = (COUNTED, MEASURED, SAMPLED, GUESS, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Volume:
    """Rows of a step."""

    rows: float | None
    """That are there to be read."""
    per_second: float | None
    """That come; 0 when nothing will."""
    sample: pa.RecordBatch | None
    known_from: tuple[str, ...]
    basis: str
    """The least sure of what it was told from: counted, measured, sampled, guess, unknown."""

    def after(self, seconds: float) -> float | None:
        """Rows of the last so many seconds, once as many have passed; of what has an end, no more than there are."""
        if not self.per_second:
            return self.rows
        return self.per_second * seconds

    def less_sure(self, basis: str, *more: str) -> Volume:
        return replace(self, basis=worst(self.basis, basis), known_from=(*self.known_from, *more))


def worst(*bases: str) -> str:
    """The least sure of them."""
    return max(bases, key=_SURE.index)


NOTHING_KNOWN = Volume(None, None, None, (), UNKNOWN)


def sampled(plan: JobPlan, now: int) -> Mapping[str, Volume]:
    """What the sources of a plan tell, by the path of the scan. Asks outside: not to be called at an epoch boundary."""
    return {s.path: _asked(s, now) for s in plan.steps() if isinstance(s, ScanStep)}


def _asked(step: ScanStep, now: int) -> Volume:
    table = step.scan.table
    try:
        stream = step.scan.open(step.scan.columns)
        rows, sample = _look(stream)
        rate = stream.rate(now)
        known = [] if rate is None else [f"{table}: {rate.known_from}"]
        if step.history is not None:
            history = step.history.open(step.scan.columns)
            past, theirs = _look(history)
            sample = theirs if theirs is not None and theirs.num_rows else sample
            rate = history.rate(now) or rate
            known = [f"{table}: {rate.known_from}"] if rate is not None else known
            rows = None if past is None else past + (rows or 0)
    except (ForebayError, OSError) as error:
        message = error.message if isinstance(error, ForebayError) else str(error)
        return replace(NOTHING_KNOWN, known_from=(f"{table}: {message}",))
    if rows is None and rate is not None:
        rows = 0  # nothing lies there
    elif rows is not None:
        known.append(f"{table}: {rows} records to read")
    per_second = rate.per_second if rate is not None else 0.0 if stream.bounded else None
    basis = MEASURED if known else UNKNOWN
    return Volume(rows, per_second, sample, tuple(known), basis)


def _look(source: Source) -> tuple[int | None, pa.RecordBatch | None]:
    """(records that are there, the first of them as rows)."""
    reader = source.reader(None)
    try:
        sample, records = source.peek(SAMPLE), 0
        if sample is None and (fetched := _first(reader)) is not None:
            sample, records = fetched.batch.rows, fetched.records
        left = reader.lag()
        rows = None if left is None and not reader.finished() else (left or 0) + records
        return rows, sample
    finally:
        reader.close()


def _first(reader: Reader) -> Fetched | None:
    """What the first polls bring; not long waited for where nothing is known to lie there."""
    for tried in range(_POLLS):
        fetched = reader.poll(SAMPLE, _WAIT)
        if fetched is not None or reader.finished() or (tried > 1 and reader.lag() == 0):
            return fetched
    return None


def rate_now(flow: Dataflow, table: str, now: int) -> Rate | None:
    """How fast the rows of a table come, by a scan that runs."""
    rates = [n.scan.rate(now) for n in flow.scans() if n.scan is not None and n.scan.spec.table == table]
    return max((r for r in rates if r is not None), key=lambda r: r.per_second, default=None)


class Volumes:
    """Volumes of the steps of one plan, at an epoch boundary."""

    def __init__(self, flow: Dataflow, sources: Mapping[str, Volume], now: int) -> None:
        """`sources`: as `sampled` gave them."""
        self._flow, self._sources, self._now = flow, sources, now
        self._known: dict[str, Volume] = {}

    def of(self, step: Step) -> Volume:
        """The rows that a step gives."""
        if step.path not in self._known:
            self._known[step.path] = self._of(step)
        return self._known[step.path]

    def _of(self, step: Step) -> Volume:
        if isinstance(step, RelationStep):
            return self._relation(step.relation)
        if isinstance(step, ScanStep):
            return self._scan(step)
        assert isinstance(step, OperatorStep)
        inputs = [self.of(s) for s in step.inputs]
        if step.label.startswith("Join"):
            return _joined(step, inputs)
        operator = step.make([None] * len(inputs))
        if operator.pure:
            return _through(operator, step, inputs)
        if step.label.startswith("Arrange") or step.relation is not None:
            return inputs[0]
        return grouped(operator, inputs[0])

    def _relation(self, name: str) -> Volume:
        node = self._flow.relation(name)
        rows = sum(s.rows() for s in node.states().values())
        first = next(iter(node.contents() or ()), None)
        return Volume(
            rows, None, None if first is None else first.rows.slice(0, SAMPLE), (f"rows of {name} now",), COUNTED
        )

    def _scan(self, step: ScanStep) -> Volume:
        known = self._sources.get(step.path, NOTHING_KNOWN)
        rate = rate_now(self._flow, step.scan.table, self._now)
        if rate is None:
            return known
        told = tuple(k for k in known.known_from if "records to read" in k)
        return replace(
            known,
            per_second=rate.per_second,
            known_from=(f"{step.scan.table}: {rate.known_from}", *told),
            basis=MEASURED,
        )


def _through(operator: Operator, step: Step, inputs: Sequence[Volume]) -> Volume:
    """Through a filter, a projection, a union: as the sample fares."""
    known = tuple(dict.fromkeys(k for v in inputs for k in v.known_from))
    basis = worst(*(v.basis for v in inputs))
    samples = [v.sample for v in inputs]
    made: pa.RecordBatch | None = None
    share = 1.0
    if all(s is not None and s.num_rows for s in samples):
        try:
            batches = [b.rows for b in made_of(operator, [[Batch(s)] for s in samples], 0)]
        except Exception:  # noqa: BLE001 - an expression that fails on a row of the sample is the job's business, when it runs
            known, basis = (*known, f"{step.label} fails on a row of the sample"), GUESS
        else:
            count = sum(s.num_rows for s in samples if s is not None)
            share = sum(b.num_rows for b in batches) / count
            made = pa.concat_batches(batches).slice(0, SAMPLE) if batches else None
            if share != 1:
                known, basis = (*known, f"{100 * share:.0f} % of a sample pass {step.label}"), worst(basis, SAMPLED)
    elif "Filter" in step.label:
        known, basis = (*known, f"all rows pass {step.label}"), GUESS
    return Volume(
        _sum([v.rows for v in inputs], share), _sum([v.per_second for v in inputs], share), made, known, basis
    )


def _sum(counts: Sequence[float | None], share: float) -> float | None:
    known = [c for c in counts if c is not None]
    return sum(known) * share if len(known) == len(counts) else None


def _joined(step: OperatorStep, sides: Sequence[Volume]) -> Volume:
    """As many rows as the larger side shows: one match each. The sample pairs rows as they come."""
    join = step.make([s.make([None]) for s in step.sources if isinstance(s, OperatorStep)])
    assert isinstance(join, JoinOperator)
    shown = [_seen(v, lens) for v, lens in zip(sides, (join.spec.left_lens, join.spec.right_lens))]
    known = tuple(dict.fromkeys(k for v in sides for k in v.known_from))
    rows, per_second = _of_both([v.rows for v in shown], max), _of_both([v.per_second for v in shown], max)
    sample = _paired(join.schema, [v.sample for v in shown])
    return Volume(rows, per_second, sample, known, UNKNOWN if rows is None else GUESS).less_sure(
        GUESS, "a join with one match each"
    )


def _seen(side: Volume, lens: Lens | None) -> Volume:
    """A side of a join as its lens shows it."""
    if lens is None or side.sample is None or not side.sample.num_rows:
        return side
    rows, keep = lens(side.sample)
    rows = rows if keep is None else rows.filter(pa.array(keep))
    share = rows.num_rows / side.sample.num_rows
    return replace(side, rows=_sum([side.rows], share), per_second=_sum([side.per_second], share), sample=rows)


def _paired(schema: pa.Schema, samples: Sequence[pa.RecordBatch | None]) -> pa.RecordBatch | None:
    """Rows of both sides beside each other, or those of the one that the join shows."""
    there = [s for s in samples if s is not None and s.num_rows]
    for one in there:
        if one.schema.types == schema.types:
            return one
    if len(there) < 2:
        return None
    count = max(s.num_rows for s in there)
    columns = [c for s in there for c in s.take(pa.array(np.arange(count) % s.num_rows)).columns]
    if [c.type for c in columns] != schema.types:
        return None
    return pa.RecordBatch.from_arrays(columns, names=schema.names)


def _of_both(counts: Sequence[float | None], pick: Callable[[Sequence[float]], float]) -> float | None:
    known = [c for c in counts if c is not None]
    return pick(known) if len(known) == len(counts) else None


def grouped(operator: Operator, rows: Volume) -> Volume:
    """One row per key of the groups of an operator (up to as many as a ranking shows)."""
    keys = _keys(operator, rows.sample)
    if keys is None:
        return rows.less_sure(GUESS, "as many keys as rows")
    if not keys.num_columns:
        return Volume(1, 0.0, None, rows.known_from, rows.basis)
    most = operator.keeps if isinstance(operator, RankOperator) else 1
    found = group_rows(keys)[1].shape[0]
    day = 86_400.0

    def groups(count: float) -> float:
        return min(count, distinct(found, keys.num_rows, count) * (most or math.inf))

    now = None if rows.rows is None else groups(rows.rows)
    growth = rows.per_second
    if growth:
        before = rows.rows or 0.0
        growth = (groups(before + growth * day) - groups(before)) / day
    text = f"{found} keys in {keys.num_rows} rows of a sample"
    return Volume(now, growth, None, (*rows.known_from, text), worst(rows.basis, SAMPLED))


def _keys(operator: Operator, sample: pa.RecordBatch | None) -> pa.RecordBatch | None:
    if sample is None or not sample.num_rows:
        return None
    carried = operator.carried(0, sample)
    return carried[0][0] if carried else None


def distinct(found: int, seen: int, count: float) -> float:
    """How many keys `count` rows have of which `seen` had `found`, if all keys are alike: D(1 - e^(-n/D)) with the D that fits.

    All different: then as many as rows.
    """
    if found >= seen:
        return count
    low, high = float(found), float(found) * 2
    while high * (1 - math.exp(-seen / high)) < found:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * (1 - math.exp(-seen / middle)) < found else (low, middle)
    return high * (1 - math.exp(-count / high))
