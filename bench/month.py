"""A month of orders and refunds, as a pure function of (orders, seed): the workload of `bench.month_join`.

Order i is made at i / orders × 30 days. One in five is updated once, within 6 hours (or, for a hard variant, 10 days later);
one in twenty is refunded after a lognormal delay with median 2 days, p90 12 days, at most 30 days and not after the end (or, for
the other hard variant, after the end: then only orders of the first 24 days are, in no order). Both inputs come as windows of
equal event time, so that readers that are polled in turn stay close to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forebay.connectors.generated import below, draw, high, low, stream_key
from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Fetched, Option, Position, Reader, Source, TableSpec

Numbers = npt.NDArray[np.int64]
DAYS = 30
DAY = 86_400_000
START = 1_767_225_600_000
"""2026-01-01, in milliseconds."""
UPDATED, REFUNDED = 0.2, 0.05
_MEDIAN, _SIGMA, _MOST = 2.0, 1.398, 30.0
"""Days; σ puts p90 at 12 days."""
CITIES = pa.array(["Beijing", "Chengdu", "Guangzhou", "Hangzhou", "Shanghai", "Shenzhen", "Wuhan", "Xian"])
STATUS = pa.array(["paid", "done"])
NOTES = pa.array([f"leave it at door {n:03d} and ring twice, pls"[:40].ljust(40, "!") for n in range(1000)])
ORDERS = pa.schema(
    [
        ("order_id", pa.int64()),
        ("user_id", pa.int64()),
        ("shop_id", pa.int64()),
        ("city", pa.string()),
        ("amount", pa.decimal128(10, 2)),
        ("status", pa.string()),
        ("ts", pa.timestamp("ms")),
        ("note", pa.string()),
    ]
)
REFUNDS = pa.schema(
    [
        ("refund_id", pa.int64()),
        ("order_id", pa.int64()),
        ("refunded", pa.decimal128(10, 2)),
        ("at", pa.timestamp("ms")),
    ]
)


@dataclass(frozen=True)
class Month:
    """The workload. A *tick* is the time between two orders."""

    orders: int
    seed: int = 0
    late_updates: bool = False
    """Updates come 10 days after the order, not within 6 hours."""
    cold_refunds: bool = False
    """Refunds come after all orders."""

    @property
    def window(self) -> int:
        """Ticks of one window: about 48K changes of orders."""
        return min(40_000, max(self.orders // 100, 1))

    @property
    def windows(self) -> int:
        return -(-(self.orders + (self.refunds[0].shape[0] if self.cold_refunds else 0)) // self.window)

    def _bits(self, name: str, ids: Numbers) -> Numbers:
        return draw(stream_key(self.seed, name), ids).view(np.int64)

    def _chosen(self, name: str, ids: Numbers, share: float) -> npt.NDArray[np.bool_]:
        return below(low(self._bits(name, ids).view(np.uint64)), 1_000_000) < int(share * 1_000_000)

    def _update_delay(self, ids: Numbers) -> Numbers:
        longest = max(self.orders // (DAYS * 4), 2)
        ticks = 1 + below(high(self._bits("update", ids).view(np.uint64)), longest - 1)
        return ticks + (self.orders // 3 if self.late_updates else 0)

    def inserted(self, window: int) -> Numbers:
        """Orders made in the window."""
        return np.arange(window * self.window, min((window + 1) * self.window, self.orders))

    def updated(self, window: int) -> Numbers:
        """Orders updated in the window."""
        begin, end = window * self.window, min((window + 1) * self.window, self.orders)
        longest = max(self.orders // (DAYS * 4), 2)
        late = self.orders // 3 if self.late_updates else 0
        ids = np.arange(max(begin - late - longest, 0), min(max(end - late, 0), self.orders))
        ids = ids[self._chosen("updated", ids, UPDATED)]
        at = ids + self._update_delay(ids)
        return ids[(at >= begin) & (at < end)]

    @cached_property
    def refunds(self) -> tuple[Numbers, Numbers]:
        """(order, tick) of every refund, by time."""
        parts = []
        for first in range(0, self.orders, 1 << 20):
            ids = np.arange(first, min(first + (1 << 20), self.orders))
            ids = ids[self._chosen("refunded", ids, REFUNDED)]
            if self.cold_refunds:
                parts.append(np.stack([ids, self._bits("delay", ids)]))
                continue
            u, v = (f(self._bits("delay", ids).view(np.uint64)).astype(np.float64) / 2**32 for f in (high, low))
            normal = np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v)  # Box and Muller 1958
            days = np.minimum(_MEDIAN * np.exp(_SIGMA * normal), _MOST)
            parts.append(np.stack([ids, ids + 1 + (days * self.orders / DAYS).astype(np.int64)]))
        order, tick = np.concatenate(parts, axis=1)
        if self.cold_refunds:
            order = order[np.argsort(tick)]
            order = order[order < self.orders * 24 // DAYS]
            return order, self.orders + np.arange(order.shape[0])
        inside = tick < self.orders
        order, tick = order[inside], tick[inside]
        by_time = np.argsort(tick, kind="stable")
        return order[by_time], tick[by_time]

    def time(self, ticks: Numbers) -> pa.Array:
        """Event times."""
        return pa.array(START + ticks * (DAYS * DAY) // self.orders).cast(pa.timestamp("ms"))

    def amount(self, ids: Numbers) -> Numbers:
        """Amounts in cents."""
        return 100 + below(low(self._bits("amount", ids).view(np.uint64)), 90_000)

    def order_rows(self, ids: Numbers, done: bool) -> pa.RecordBatch:
        """Orders as they are before or after their update."""
        bits = self._bits("order", ids).view(np.uint64)
        return pa.RecordBatch.from_arrays(
            [
                pa.array(ids),
                pa.array(below(low(bits), 5_000_000)),
                pa.array(below(high(bits), 50_000)),
                CITIES.take(pa.array(ids % 8)),
                _cents(self.amount(ids)),
                STATUS.take(pa.array(np.full(ids.shape[0], int(done)))),
                self.time(ids),
                NOTES.take(pa.array(ids % 1000)),
            ],
            schema=ORDERS,
        )

    def order_changes(self, window: int) -> Batch:
        """The changelog of orders in a window."""
        inserted, updated = self.inserted(window), self.updated(window)
        parts = [(inserted, False, 1), (updated, False, -1), (updated, True, 1)]
        rows = pa.concat_batches([self.order_rows(ids, done) for ids, done, _ in parts])
        return Batch(rows, np.concatenate([np.full(ids.shape[0], weight) for ids, _, weight in parts]))

    def refund_rows(self, orders: Numbers, ticks: Numbers) -> pa.RecordBatch:
        """Refunds of half the amount."""
        columns = [pa.array(orders * 2 + 1), pa.array(orders), _cents(self.amount(orders) // 2), self.time(ticks)]
        return pa.RecordBatch.from_arrays(columns, schema=REFUNDS)


def _cents(cents: Numbers) -> pa.Array:
    words = np.zeros((cents.shape[0], 2), np.int64)
    words[:, 0] = cents
    return pa.Array.from_buffers(pa.decimal128(10, 2), cents.shape[0], [None, pa.py_buffer(words)])


class MonthSource(Source):
    """`table` 'orders' or 'refunds'."""

    bounded = True

    def __init__(self, month: Month, table: str) -> None:
        self.month = month
        self.table = table
        self.schema = ORDERS if table == "orders" else REFUNDS
        self.changelog = Changelog.RETRACT if table == "orders" else Changelog.APPEND

    def reader(self, positions: Mapping[str, Position] | None) -> Reader:
        return MonthReader(self, int(positions["0"]) if positions else 0)


class MonthReader(Reader):
    """One window per poll; the position is the number of the next."""

    def __init__(self, source: MonthSource, at: int) -> None:
        self._source = source
        self._at = at
        self._end = source.month.windows
        self._refunds = source.month.refunds if source.table == "refunds" else None

    def splits(self) -> list[str]:
        return ["0"]

    def poll(self, max_rows: int, timeout: float) -> Fetched | None:
        if self.finished():
            return None
        month, window = self._source.month, self._at
        self._at += 1
        if self._refunds is None:
            batch = month.order_changes(window)
            return Fetched(batch, None, records=int((batch.weight_array() > 0).sum()))
        orders, ticks = self._refunds
        first, end = np.searchsorted(ticks, [window * month.window, (window + 1) * month.window])
        rows = month.refund_rows(orders[first:end], ticks[first:end])
        return Fetched(Batch(rows), None, records=rows.num_rows)

    def positions(self) -> dict[str, Position]:
        return {"0": self._at}

    def finished(self) -> bool:
        return self._at >= self._end

    def limit(self, positions: Mapping[str, Position] | None) -> None:
        self._end = self._source.month.windows if positions is None else int(positions["0"])

    def lag(self) -> int:
        return (self._end - self._at) * self._source.month.window


def connector(month: Month) -> Connector:
    """`'connector' = 'month', 'table' = 'orders'`."""

    def source(spec: TableSpec) -> Source:
        return MonthSource(month, spec.options["table"])

    return Connector("month", (Option("table", "orders or refunds"),), source=source)
