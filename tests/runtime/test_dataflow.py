"""Sharing, late attachment, isolation and replay, without SQL."""

from __future__ import annotations

import pyarrow as pa
import pytest

from forebay.engine.batch import Batch
from forebay.engine.files import Clock
from forebay.engine.operators.base import Operator
from forebay.engine.runtime.driver import Driver
from forebay.engine.runtime.job import Status
from forebay.engine.runtime.options import DriverOptions
from forebay.engine.runtime.plan import JobPlan
from tests.runtime.fakes import Collected, Numbers, expected_sums, output, scan, total


class StillClock(Clock):
    def __init__(self) -> None:
        self.at = 1_000_000

    def now(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return self.at / 1e6


def driver(**options: float) -> Driver:
    return Driver(StillClock(), DriverOptions(latency=0, **options))  # type: ignore[arg-type]


def drain(d: Driver) -> None:
    while d.step():
        pass


def test_equal_scans_of_one_start_run_once() -> None:
    numbers, d = Numbers(100, available=40), driver()
    first, second = Collected(), Collected()
    d.attach("a", JobPlan((output(total(scan(numbers)), first),)))
    d.attach("b", JobPlan((output(total(scan(numbers), key="other"), second),)))
    drain(d)
    assert numbers.opened == 1
    assert first.rows == second.rows == expected_sums(40)


def test_a_late_job_joins_a_node_that_shows_its_past() -> None:
    numbers, d = Numbers(100, available=40), driver()
    first, late = Collected(), Collected()
    d.attach("a", JobPlan((output(total(scan(numbers)), first),)))
    drain(d)
    d.attach("b", JobPlan((output(total(scan(numbers)), late),)))
    assert late.rows == expected_sums(40)
    numbers.available = 100
    drain(d)
    assert numbers.opened == 1
    assert late.rows == first.rows == expected_sums(100)
    d.detach("a")
    assert late.rows == expected_sums(100)
    assert [n.id for n in d.flow.order] == ["shared/numbers", "shared/sum", "b/out"]


def test_a_late_job_over_a_stream_catches_up_then_shares_the_scan() -> None:
    numbers, d = Numbers(100, available=40), driver()
    first, late = Collected(), Collected()
    d.attach("a", JobPlan((output(total(scan(numbers), holds=False), first),)))
    drain(d)
    d.attach("b", JobPlan((output(total(scan(numbers), holds=False), late),)))
    assert late.rows == {}
    drain(d)
    drain(d)
    assert late.rows == expected_sums(40)
    assert len(d.flow.scans()) == 1, "the private scan gave way to the shared one"
    numbers.available = 100
    drain(d)
    assert late.rows == first.rows == expected_sums(100)


def test_a_failing_job_leaves_the_others_exact_and_resumes_exactly() -> None:
    numbers, d = Numbers(100, available=20), driver(batch=10)
    good, bad = Collected(), Collected()
    broken = {61}
    d.attach("good", JobPlan((output(total(scan(numbers)), good),)))
    d.attach("bad", JobPlan((output(total(scan(numbers), key="bad", broken=broken), bad),)))
    drain(d)
    numbers.available = 80
    drain(d)
    assert d.jobs["bad"].status is Status.RESTARTING
    assert good.rows == expected_sums(80)
    assert bad.rows != good.rows
    broken.clear()
    d.resume("bad")
    assert d.jobs["bad"].status is Status.RUNNING
    assert bad.rows == good.rows
    numbers.available = 100
    drain(d)
    assert bad.rows == good.rows == expected_sums(100)


def test_an_error_that_is_foreseen_is_met_by_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    foreseen = []

    def foresee(self: Operator, number: int, batches: list[Batch], epoch: int) -> None:
        foreseen.append(sum(b.num_rows for b in batches))
        raise ValueError("division by zero")

    monkeypatch.setattr(Operator, "foresee", foresee)
    d, out = driver(batch=10), Collected()
    d.attach("a", JobPlan((output(total(scan(Numbers(30))), out),)))
    drain(d)
    assert d.jobs["a"].status is Status.FINISHED
    assert out.rows == expected_sums(30)
    assert sum(foreseen) == 60


def test_a_job_that_keeps_failing_stays_failed_and_can_be_mended() -> None:
    numbers, d = Numbers(50), driver(backoff=0.5)
    bad, broken = Collected(), {33}
    d.attach("bad", JobPlan((output(total(scan(numbers), broken=broken), bad),)))
    clock = d.clock
    assert isinstance(clock, StillClock)
    for _ in range(10):
        drain(d)
        clock.at += 10_000_000
    assert d.jobs["bad"].status is Status.FAILED
    assert "33" in str(d.jobs["bad"].error)
    broken.clear()
    d.resume("bad")
    drain(d)
    assert bad.rows == expected_sums(50)


def test_a_bounded_job_finishes() -> None:
    d, out = driver(), Collected()
    d.attach("a", JobPlan((output(total(scan(Numbers(30))), out),)))
    drain(d)
    assert d.jobs["a"].status is Status.FINISHED
    assert out.rows == expected_sums(30)


def test_an_attachment_that_fails_leaves_nothing() -> None:
    d = driver()
    broken_plan = JobPlan((output(total(scan(Numbers(5)), key=None), Collected()),))
    object.__setattr__(broken_plan.outputs[0], "outlet", lambda: pa.nothing_here())
    with pytest.raises(AttributeError):
        d.attach("a", broken_plan)
    assert d.flow.order == []
    assert d.jobs == {}
