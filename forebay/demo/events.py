"""A food-delivery company for the demo: seeded MySQL binlog events (canal-json, tables mixed) and click logs.

Orders are placed over thirty event days; some are changed later, some are given to another shop, some are refunded up to thirty
days on, a few rows are deleted. The generator keeps the tables as they are in the end: the demo checks itself against them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

CITIES = ("Beijing", "Chengdu", "Guangzhou", "Hangzhou", "Shanghai", "Shenzhen")
DAYS = 30
_START = datetime(2026, 1, 1, tzinfo=UTC)

Row = dict[str, Any]


@dataclass
class Company:
    """The tables of the source database, and what its binlog said."""

    orders: int
    seed: int = 7
    tables: dict[str, dict[int, Row]] = field(default_factory=lambda: {"shops": {}, "orders": {}, "refunds": {}})
    events: int = 0

    def messages(self) -> Iterator[tuple[str, str]]:
        """('binlog' or 'clicks', message) in order of time."""
        rng = random.Random(self.seed)
        for shop in range(200):
            yield self._insert("shops", _START, {"id": shop, "name": f"Shop {shop}", "city": rng.choice(CITIES)})
        late: list[tuple[datetime, int]] = []
        for order in range(self.orders):
            now = _START + timedelta(days=DAYS) * (order / self.orders)
            yield self._insert("orders", now, self._order(rng, order, now))
            yield (
                "clicks",
                json.dumps({"user_id": order % 997, "page": f"/shop/{rng.randrange(200)}", "ts": _text(now)}),
            )
            kind = rng.random()
            if kind < 0.20:
                yield self._update("orders", now, order, {"status": "delivered"})
            elif kind < 0.22:
                yield self._update("orders", now, order, {"shop_id": rng.randrange(200)})
            elif kind < 0.225:
                yield self._delete("orders", now, order)
            if rng.random() < 0.05:
                late.append((now + timedelta(days=min(rng.lognormvariate(0.7, 1.2), DAYS)), order))
            if late and late[0][0] <= now:
                yield self._refund(rng, *late.pop(0))
        for when, order in late:
            yield self._refund(rng, when, order)

    def _order(self, rng: random.Random, order: int, now: datetime) -> Row:
        amount = Decimal(rng.randrange(500, 20_000)).scaleb(-2)
        return {
            "id": order,
            "user_id": order % 997,
            "shop_id": rng.randrange(200),
            "amount": str(amount),
            "status": "paid",
            "ordered": _text(now),
        }

    def _refund(self, rng: random.Random, when: datetime, order: int) -> tuple[str, str]:
        amount = Decimal(rng.randrange(100, 500)).scaleb(-2)
        row = {"id": order, "order_id": order, "amount": str(amount), "refunded": _text(when)}
        return self._insert("refunds", when, row)

    def _insert(self, table: str, when: datetime, row: Row) -> tuple[str, str]:
        self.tables[table][row["id"]] = row
        return self._event(table, "INSERT", when, row, None)

    def _update(self, table: str, when: datetime, key: int, change: Row) -> tuple[str, str]:
        old = self.tables[table][key]
        new = self.tables[table][key] = old | change
        return self._event(table, "UPDATE", when, new, {c: old[c] for c in change})

    def _delete(self, table: str, when: datetime, key: int) -> tuple[str, str]:
        return self._event(table, "DELETE", when, self.tables[table].pop(key), None)

    def _event(self, table: str, kind: str, when: datetime, row: Row, old: Row | None) -> tuple[str, str]:
        """One row change as Canal writes it: all values are text."""
        self.events += 1
        change = {
            "database": "food",
            "table": table,
            "type": kind,
            "isDdl": False,
            "es": int(when.timestamp() * 1000),
            "id": self.events,
            "data": [{c: str(v) for c, v in row.items()}],
            "old": None if old is None else [{c: str(v) for c, v in old.items()}],
        }
        return "binlog", json.dumps(change)

    def metrics(self) -> dict[tuple[str, str], tuple[int, Decimal, Decimal]]:
        """Per city and minute of ordering: orders, their amount, and what was refunded within thirty days."""
        refunds = {r["order_id"]: r for r in self.tables["refunds"].values()}
        found: dict[tuple[str, str], tuple[int, Decimal, Decimal]] = {}
        for order in self.tables["orders"].values():
            city = self.tables["shops"][order["shop_id"]]["city"]
            refund = refunds.get(order["id"])
            back = Decimal(refund["amount"]) if refund is not None else Decimal(0)
            key = (city, order["ordered"][:16])
            count, amount, refunded = found.get(key, (0, Decimal(0), Decimal(0)))
            found[key] = (count + 1, amount + Decimal(order["amount"]), refunded + back)
        return found


def _text(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S")
