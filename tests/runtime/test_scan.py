"""A running scan: what a turn's polls bring counts once, whatever happens between them."""

from __future__ import annotations

import json

from forebay.engine.runtime.scan import Scan, ScanSpec
from forebay.engine.runtime.watermark import WatermarkSpec
from tests.runtime.fakes import SCHEMA, Numbers, NumbersSource


def test_a_scan_widened_between_two_polls_of_a_turn_reads_again() -> None:
    numbers = Numbers(10)
    scan = Scan(ScanSpec("numbers", lambda columns: NumbersSource(numbers), SCHEMA, frozenset({"k"})), now=0)
    scan.begin()
    narrow = scan.poll(4, 0.0)
    assert narrow is not None
    scan.widen(frozenset({"v"}))
    assert scan.poll(4, 0.0) is None
    assert scan.take(narrow, now=0) == []
    assert scan.positions == {"a": 0, "b": 0}
    scan.begin()
    wide = scan.poll(100, 0.0)
    assert wide is not None
    assert [b.num_rows for b in scan.take(wide, now=0)] == [20]
    assert scan.columns == {"k", "v"}
    assert scan.positions == {"a": 10, "b": 10}


def test_what_a_checkpoint_has_of_a_scan_stays_as_it_was() -> None:
    """It is written later, while the scan goes on: a watermark ahead of the positions would make rows late that are not."""
    numbers = Numbers(10, available=2, bounded=False)
    marks = WatermarkSpec(lambda rows: rows.column(1).cast("timestamp[us]"))
    scan = Scan(ScanSpec("numbers", lambda columns: NumbersSource(numbers), SCHEMA, None, marks), now=0)

    def turn() -> None:
        scan.begin()
        scan.take(scan.poll(100, 0.0), now=0)

    turn()
    saved = scan.save()
    before = json.dumps(saved)
    numbers.available = 10
    turn()
    assert json.dumps(saved) == before
    assert scan.save()["watermark"]["highest"] == [18, 19]
