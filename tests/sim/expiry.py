"""The simulation's tables whose rows expire, and what jobs over them must give.

What has expired depends on how the input fell into epochs, and that on the run. So each epoch that had rows is noted, with the
positions up to which it read; those that a crash undid are crossed out, for the next life goes on from a checkpoint's positions.
The rest is gone through at the end by the definition of a TTL (docs/sql.md), over lists of rows.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from forebay.engine.runtime.driver import Driver

SECOND = 1_000_000
SALE_TTL, RETURN_TTL, GROUP_TTL = 20 * SECOND, 6 * SECOND, 8 * SECOND
ALWAYS = -(2**63)
TOPICS = ("sales", "returns")
PARTITIONS = 2
DDL = f"""
CREATE TABLE sales (id BIGINT, shop BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
  WITH ('connector' = 'log', 'topic' = 'sales', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE returns (sale BIGINT, w BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
  WITH ('connector' = 'log', 'topic' = 'returns', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE matched (id BIGINT, shop BIGINT, w BIGINT)
  WITH ('connector' = 'log', 'topic' = 'matched', 'format' = 'debezium-json', 'sink.delivery-guarantee' = 'exactly-once');
CREATE MATERIALIZED VIEW every AS SELECT s.id, r.w FROM sales s JOIN returns r ON r.sale = s.id;
CREATE MATERIALIZED VIEW recent AS SELECT /*+ STATE_TTL('sales' = '{GROUP_TTL // SECOND} s') */
  shop, COUNT(*) AS n, SUM(id) AS ids, COUNT(DISTINCT id) AS d FROM sales GROUP BY shop;
INSERT INTO matched SELECT /*+ STATE_TTL('s' = '{SALE_TTL // SECOND} s', 'r' = '{RETURN_TTL // SECOND} s') */
  s.id, s.shop, r.w FROM sales s LEFT JOIN returns r ON r.sale = s.id;
"""
"""A join and a grouping with a TTL, and a join of the same state without one."""
NAMES = {"sales", "returns", "matched", "every", "recent"}
Event = tuple[int, int, int]
"""A sale (id, shop, time) or a return (sale, w, time); times in µs."""
Reached = dict[str, tuple[Any, ...]]
"""By topic, the position in each partition."""


@dataclass
class Expiring:
    """What was produced, and how the engine has read it."""

    produced: dict[str, list[list[Event]]] = field(default_factory=lambda: {t: [[], []] for t in TOPICS})
    epochs: list[Reached] = field(default_factory=list)
    """Where the scans stood in the beginning, and after each epoch that had rows."""
    now: int = 0
    expired: int = 0
    """Rows and groups that the definition has dropped."""

    def event(self, rng: random.Random, clock: int) -> tuple[str, int, bytes]:
        """(topic, partition, record) of a sale or a return; time passes, and some come late."""
        self.now = max(self.now, clock) + rng.randrange(5) * SECOND
        time = self.now - rng.randrange(10) * SECOND * (rng.random() < 0.4)
        ids = [sale for part in self.produced["sales"] for sale, _, _ in part]
        topic = "returns" if ids and rng.random() < 0.5 else "sales"
        key = rng.choice(ids[-8:]) if ids and (topic == "returns" or rng.random() < 0.1) else len(ids)
        row = (key, rng.randrange(3), time)
        partition = rng.randrange(PARTITIONS)
        self.produced[topic][partition].append(row)
        names = ("id", "shop", "ts") if topic == "sales" else ("sale", "w", "ts")
        at = f"{datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
        return topic, partition, json.dumps(dict(zip(names, (*row[:2], at), strict=True))).encode()

    def opened(self, driver: Driver) -> None:
        """A life begins where a checkpoint was made: what came after that has never been."""
        there = _reached(driver)
        if not self.epochs:
            self.epochs = [there]
        del self.epochs[self.epochs.index(there) + 1 :]

    def stepped(self, driver: Driver) -> None:
        """Note the epoch, if it had rows."""
        if (there := _reached(driver)) != self.epochs[-1]:
            self.epochs.append(there)

    def results(self) -> tuple[Counter[Any], Counter[Any], dict[int, Any]]:
        """What `matched`, `every` and `recent` show."""
        join, groups, every = _Join(), _Groups(), Counter[Any]()
        marks: dict[str, list[int | None]] = {t: [None] * PARTITIONS for t in TOPICS}
        for before, after in zip(self.epochs, self.epochs[1:]):
            least = [min(t) if None not in (t := marks[topic]) else None for topic in TOPICS]  # type: ignore[type-var]
            rows = {t: [self.produced[t][p][before[t][p] : after[t][p]] for p in range(PARTITIONS)] for t in TOPICS}
            sales, returns = ([r for part in rows[t] for r in part] for t in TOPICS)
            join.epoch(sales, returns, None if None in least else min(least))  # type: ignore[type-var]
            groups.epoch(sales, least[0])
            for topic, partition in ((t, p) for t in TOPICS for p in range(PARTITIONS)):
                times = [row[-1] for row in rows[topic][partition]]
                marks[topic][partition] = max([*times, *filter(None, [marks[topic][partition]])], default=None)
        sales, returns = ([r for part in self.produced[t] for r in part] for t in TOPICS)
        every.update((s[0], r[1]) for s in sales for r in returns if s[0] == r[0])
        self.expired = join.expired + groups.expired
        return +join.shown, every, groups.shown


def _reached(driver: Driver) -> Reached:
    scans = {n.scan.spec.table: n.scan for n in driver.flow.scans() if n.scan is not None}
    return {t: tuple(int(scans[t].positions.get(f"{t}-{p}", 0)) for p in range(PARTITIONS)) for t in TOPICS}


class _Join:
    """Sales ⟕ returns, each with its TTL."""

    def __init__(self) -> None:
        self.sales: list[Event] = []
        self.returns: list[Event] = []
        self.bounds = [ALWAYS, ALWAYS]
        self.joined: set[Event] = set()
        self.shown: Counter[Any] = Counter()
        self.expired = 0

    def epoch(self, sales: list[Event], returns: list[Event], horizon: int | None) -> None:
        if horizon is not None:
            self.bounds = [max(b, horizon - t) for b, t in zip(self.bounds, (SALE_TTL, RETURN_TTL), strict=True)]
        old = [[r for r in side if r[-1] >= b] for side, b in zip((self.sales, self.returns), self.bounds, strict=True)]
        new = [[r for r in side if r[-1] >= b] for side, b in zip((sales, returns), self.bounds, strict=True)]
        self.expired += sum(map(len, (self.sales, self.returns, sales, returns))) - sum(map(len, old + new))
        self.shown.update((*sale[:2], None) for sale in new[0])
        for sale, back in [(s, r) for s in new[0] for r in old[1]] + [(s, r) for s in old[0] + new[0] for r in new[1]]:
            if sale[0] == back[0]:
                self.shown[(*sale[:2], back[1])] += 1
        self.sales, self.returns = old[0] + new[0], old[1] + new[1]
        for sale in {s for s in self.sales if any(s[0] == r[0] for r in self.returns)} - self.joined:
            self.joined.add(sale)
            self.shown[(*sale[:2], None)] -= self.sales.count(sale)


class _Groups:
    """Sales by shop: a group lives by its newest row."""

    def __init__(self) -> None:
        self.groups: dict[int, list[Event]] = {}
        self.shown: dict[int, Any] = {}
        self.bound = ALWAYS
        self.expired = 0

    def epoch(self, sales: list[Event], horizon: int | None) -> None:
        if horizon is not None:
            self.bound = max(self.bound, horizon - GROUP_TTL)
        for shop in {s[1] for s in sales}:
            group = self.groups.get(shop, [])
            if group and max(r[-1] for r in group) < self.bound:
                group = []
                self.expired += 1
            rows = [s for s in sales if s[1] == shop]
            if not group and max(r[-1] for r in rows) < self.bound:
                self.expired += len(rows)
                continue
            self.groups[shop] = group = group + rows
            ids = [r[0] for r in group]
            self.shown[shop] = (len(ids), sum(ids), len(set(ids)))
