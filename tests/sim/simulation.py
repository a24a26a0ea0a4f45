"""One seeded run of a whole warehouse, with crashes: the same seed is the same run.

Two topics, an embedded table, a view, and three sinks (changes into a topic, upserts into a topic, files) live on a simulated
disk and clock. Each turn the seed chooses what happens: a record arrives, a statement is executed, the driver, a sink or the
background writer goes one step, time passes. Each life ends at a kill point or between two turns; then the disk forgets what
was not synced, or only the process is gone. At the end every output must be what a plain computation over all input gives.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

import forebay
from forebay.connectors.topiclog.frames import PLAIN, read_rows
from forebay.connectors.topiclog.store import open_store
from forebay.engine.files import KILL_POINTS, set_kill_hook
from forebay.engine.operators import pieces
from forebay.engine.runtime import bootstrap
from forebay.engine.runtime.budget import Budget
from forebay.engine.runtime.driver import Driver
from forebay.engine.state import bulk, cold, groups
from tests.connectors.lossy import LossyFiles
from tests.oracle.test_sealed import seal_all
from tests.sim import expiry, history
from tests.sim.world import Crash, Fate, Mount, SimClock

DDL = """
CREATE TABLE orders (id BIGINT, shop BIGINT, v BIGINT, PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = 'upsert-log', 'topic' = 'orders', 'key.format' = 'json', 'value.format' = 'json');
CREATE TABLE refunds (order_id BIGINT, w BIGINT)
  WITH ('connector' = 'log', 'topic' = 'refunds', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE shops (id BIGINT, name STRING, PRIMARY KEY (id) NOT ENFORCED);
CREATE TABLE notes (n BIGINT);
CREATE TABLE wide (id BIGINT, v BIGINT, w BIGINT, name STRING)
  WITH ('connector' = 'log', 'topic' = 'wide', 'format' = 'debezium-json', 'sink.delivery-guarantee' = 'exactly-once');
CREATE TABLE totals (shop BIGINT, orders BIGINT, v BIGINT, PRIMARY KEY (shop) NOT ENFORCED)
  WITH ('connector' = 'upsert-log', 'topic' = 'totals', 'key.format' = 'json', 'value.format' = 'json',
        'sink.delivery-guarantee' = 'exactly-once');
CREATE TABLE files (order_id BIGINT, w BIGINT) WITH ('connector' = 'filesystem', 'path' = '{files}', 'format' = 'json');
CREATE MATERIALIZED VIEW by_shop AS
  SELECT s.id, s.name, COUNT(o.id) AS n, SUM(o.v) AS v FROM shops s LEFT JOIN orders o ON o.shop = s.id GROUP BY s.id, s.name;
INSERT INTO wide SELECT o.id, o.v, r.w, s.name
  FROM orders o LEFT JOIN refunds r ON r.order_id = o.id LEFT JOIN shops s ON s.id = o.shop;
INSERT INTO totals SELECT shop, COUNT(*), SUM(v) FROM orders GROUP BY shop;
INSERT INTO files SELECT order_id, w FROM refunds WHERE w > 3;
"""
OUTPUTS = ("by_shop", "wide", "totals", "files")
"""A run has some of them."""
DDL += history.DDL + expiry.DDL
TABLES = {"orders", "refunds", "shops", "notes"}
MADE = [
    table or f"insert_into_{sink}" for table, sink in re.findall(r"^CREATE [A-Z ]+(\w+)|^INSERT INTO (\w+)", DDL, re.M)
]
"""What each statement makes: an earlier life may have made it."""
ELSEWHERE = (
    "kafka.",
    "outbox.opened.",
    "topiclog.retain.",
    "topiclog.compact.",
    "filesink.success.",
    "filesink.rename.",
    "bootstrap.handover.",
    "bootstrap.defined.",
    "savepoint.cop",
    "savepoint.publish.",
    "savepoint.withdraw.",
    "restore.fetch.",
    "cold.rescue.",
)
"""Places that no run, or hardly one, comes by: what they write does not go through the simulated disk (copies of savepoints are
`pyarrow.fs`'s, cold files RocksDB's), or they belong to a connector that is not here. Real processes are killed at each of
them: tests/faults, tests/durable, and the tests of the connectors."""
PLACES = sorted(p for p in KILL_POINTS if not p.startswith(ELSEWHERE))
SAVING = ("savepoint.", "restore.stage.", "restore.journal.", "restore.finish.")
"""Places of runs with savepoints."""
KEYS = 12
Row = tuple[Any, ...]


class Simulation:
    """One run. `run` makes it; `passed` tells afterwards which kill points were passed, `deaths` which were fatal."""

    def __init__(
        self, seed: int, root: Path, prepared: dict[frozenset[str], LossyFiles], *, expires: bool = False
    ) -> None:
        """`root`: where the warehouse lies, and really lies what is not simulated (its lock, its log, RocksDB).
        `prepared`: disks on which the statements for some outputs have been executed, for the runs to come.
        `expires`: the outputs are those of `expiry`."""
        self.rng = random.Random(seed)
        self.root = root
        self.outputs = frozenset(self.rng.sample(OUTPUTS, self.rng.choice((1, 1, 2, 2, 3, 4))))
        self.booted = self.rng.random() < 0.12 and not expires
        """A view over a table with a history, too."""
        self.expiring = expiry.Expiring() if expires else None
        if expires:
            self.outputs = frozenset(expiry.NAMES)
        self.outputs |= {"past"} if self.booted else set()
        disk = prepared.get(self.outputs) if self.rng.random() < 0.9 else None
        self._prepared = prepared
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        self.disk = self._empty(seed) if disk is None else disk.copy(seed)
        self.clock = SimClock()
        self.sealed = self.rng.random() < 0.2
        self.goes_back = self.outputs == {"by_shop"}
        """A restore is a turn, too. What sinks got since the savepoint they get again, so nothing could be told of theirs."""
        self.saves = self.rng.random() < (0.6 if self.goes_back else 0.05)
        own = [p for p in PLACES if p.startswith(SAVING)]
        boot = [p for p in PLACES if p.startswith("bootstrap.")]
        self._places = [p for p in PLACES if p not in own + boot] + own * (3 * self.saves) + boot * (2 * self.booted)
        self.history = dict(history.HISTORY)
        self._boots = 0
        self._parquet = root.parent / "history"
        self.kept: dict[str, tuple[dict[int, str], list[int]]] = {}
        """Savepoints that were begun, and what the tables had then."""
        self.orders: dict[int, tuple[int, int]] = {}
        self.refunds: list[tuple[int, int]] = []
        self.shops: dict[int, str] = {}
        self.notes: list[int] = []
        self.unsure: tuple[dict[int, str], list[int]] | None = None
        self.con: forebay.Connection | None = None
        self.passed: set[str] = set()
        self.deaths: list[str] = []
        self._outside = open_store(str(root), Mount(self.disk))
        if self.booted:
            history.write_history(self._parquet)

    def run(self, lives: int, turns: int) -> None:
        """Live so many times, each at most so many turns; then go on undisturbed to the end, and check."""
        with (
            mock.patch.object(Budget, "keep", seal_all if self.sealed else Budget.keep),
            mock.patch.object(cold, "FAN", 2),
            mock.patch.object(cold, "DEAR", 0),
            mock.patch.object(groups, "LEAST", 0),
            mock.patch.object(pieces, "FEW", 0),
            mock.patch.object(bulk, "RUN_BATCHES", 2),
            mock.patch.object(bulk, "RANGE_ROWS", 8),
            mock.patch.object(bootstrap, "READ_ROWS", 7),
            mock.patch.object(bootstrap, "_boot", self._boot),
        ):
            for _ in range(lives):
                self._live(turns)
            self._end()
            if self.outputs not in self._prepared:
                self._prepare()

    def _boot(self) -> str:
        """Which start of the machine this is."""
        return str(self._boots)

    def _empty(self, seed: int) -> LossyFiles:
        """A disk with the topics that others write."""
        disk = LossyFiles(seed, self.root)
        store = open_store(str(self.root), Mount(disk))
        for topic in ("orders", "refunds", "history", *expiry.TOPICS):
            store.create(topic, 2)
        return disk

    def _prepare(self) -> None:
        """Execute the statements on an empty disk, for other runs to begin with."""
        self.disk = self._empty(0)
        con = self._open(Mount(self.disk))
        con.warehouse.close(final_checkpoint=False)
        self._prepared[self.outputs] = self.disk

    # -- a life -------------------------------------------------------------------------------------------------

    def _live(self, turns: int) -> None:
        mount = Mount(self.disk)
        fate = Fate(self.rng.choice(self._places), self.rng.choice((1, 1, 2, 3, 5)), mount)
        self.con = None
        set_kill_hook(fate)
        try:
            con = self._open(mount)
            for _ in range(self.rng.randrange(turns)):
                self._turn(con)
        except Crash:
            self.deaths.append(fate.place)
        finally:
            set_kill_hook(None)
            self.passed.update(fate.passed)
        mount.dead = False
        if self.con is not None:
            self.con.warehouse.close(final_checkpoint=False)  # lets the lock and the cold store go; writes nothing
        mount.dead = True
        if self.rng.random() < 0.5:  # the machine goes down, and with it the process that produces
            self.disk.crash()
            self._boots += 1
            self._outside = open_store(str(self.root), Mount(self.disk))

    def _open(self, mount: Mount) -> forebay.Connection:
        self.tasks: list[Callable[[], None]] = []
        self.con = con = forebay.Connection(self.root, resume=False, files=mount, clock=self.clock)
        con.warehouse.driver._writer = self.tasks.append
        self._ask(con)
        made = con.catalog.relations.keys() | con.jobs.keys()
        for name, statement in zip(MADE, DDL.split(";"), strict=False):
            output = name.removeprefix("insert_into_")
            if name not in made and output in self.outputs | TABLES | ({"history"} if self.booted else set()):
                con.execute(statement.format(files=self.root / "files", history=self._parquet))
        if self.expiring is not None:
            self.expiring.opened(con.warehouse.driver)
        return con

    def _turn(self, con: forebay.Connection) -> None:
        driver = con.warehouse.driver
        runners = [r for job in driver.jobs.values() for r in job.runners]
        match self.rng.randrange(14 if self.saves or self.booted else 12):
            case 12 | 13 if self.booted and (not self.saves or self.rng.random() < 0.5):
                self._change()
            case 12 | 13:
                self._savepoint(con)
            case 0 | 1 | 2 | 3 if self.expiring is not None:
                self._produce_event(self.expiring)
            case 0 | 1 | 2:
                self._order()
            case 3:
                self._refund()
            case 4:
                self._statement(con)
            case 5 | 6:
                self._step(driver)
            case 7:
                self.clock.sleep(self.rng.random())
            case 8 if not self.tasks:
                driver.checkpoint()
            case 9 if self.tasks:
                self.tasks.pop(0)()
            case _:
                for runner in runners:
                    runner.step()

    def _step(self, driver: Driver) -> bool:
        worked = driver.step()
        if self.expiring is not None:
            self.expiring.stepped(driver)
        return worked

    # -- input --------------------------------------------------------------------------------------------------

    def _order(self) -> None:
        key, shop, v = self.rng.randrange(KEYS), self.rng.randrange(history.SHOPS), self.rng.randrange(100)
        gone = self.rng.random() < 0.15
        value = None if gone else json.dumps({"id": key, "shop": shop, "v": v}).encode()
        self._produce("orders", key % 2, json.dumps({"id": key}).encode(), value)
        self.orders.pop(key, None)
        if not gone:
            self.orders[key] = (shop, v)

    def _refund(self) -> None:
        row = (self.rng.randrange(KEYS), self.rng.randrange(10))
        value = json.dumps({"order_id": row[0], "w": row[1]}).encode()
        self._produce("refunds", self.rng.randrange(2), None, value)
        self.refunds.append(row)

    def _produce_event(self, expiring: expiry.Expiring) -> None:
        topic, partition, value = expiring.event(self.rng, self.clock.now())
        self._produce(topic, partition, None, value)

    def _change(self) -> None:
        """A row that the files may have changes in the stream, or goes."""
        key, shop, v = (
            self.rng.randrange(len(history.HISTORY) + 5),
            self.rng.randrange(history.SHOPS),
            self.rng.randrange(100),
        )
        at = f"{datetime.fromtimestamp(self.clock.now() / 1e6, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
        gone = self.rng.random() < 0.15
        value = None if gone else json.dumps({"id": key, "shop": shop, "v": v, "at": at}).encode()
        self._produce("history", key % 2, json.dumps({"id": key}).encode(), value)
        self.history.pop(key, None)
        if not gone:
            self.history[key] = (shop, v)

    def _produce(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        """Another process appends a record, and does not die of our kill points."""
        columns = [pa.array([self.clock.now() // 1000]), pa.array([key], pa.binary()), pa.array([value], pa.binary())]
        with mock.patch("forebay.engine.files._hook", None):
            self._outside.append({(topic, partition): pa.RecordBatch.from_arrays(columns, schema=PLAIN)})

    def _statement(self, con: forebay.Connection) -> None:
        """Change a table; a statement that dies on the way may have happened or not, and is asked about in the next life."""
        key, name = self.rng.randrange(history.SHOPS), f"s{self.rng.randrange(100)}"
        self.unsure = dict(self.shops), list(self.notes)
        match self.rng.randrange(5):
            case 0:
                statement = f"DELETE FROM shops WHERE id = {key}"
                self.shops.pop(key, None)
            case 1 | 2:
                statement = f"INSERT INTO notes VALUES ({key}), ({key + 1})"
                self.notes = sorted([*self.notes, key, key + 1])
            case _:
                statement = f"INSERT INTO shops VALUES ({key}, '{name}')"
                self.shops[key] = name
        con.execute(statement)
        self.unsure = None

    def _savepoint(self, con: forebay.Connection) -> None:
        """Make a savepoint, drop one or go back to one. Checkpoints are written at once meanwhile: the statement waits."""
        while self.tasks:
            self.tasks.pop(0)()
        con.warehouse.driver._writer = lambda work: work()
        there = [row[0] for row in con.sql("SHOW SAVEPOINTS").fetchall()]
        pick = self.rng.random()
        if there and self.goes_back and pick < 0.4:
            name = self.rng.choice(there)
            self.unsure = self.shops, self.notes
            self.shops, self.notes = dict(self.kept[name][0]), list(self.kept[name][1])
            con.execute(f"RESTORE SAVEPOINT {name}")
            self.unsure = None
        elif there and pick < 0.6:
            con.execute(f"DROP SAVEPOINT {self.rng.choice(there)}")
        else:
            name = f"s{len(self.kept)}"
            self.kept[name] = dict(self.shops), list(self.notes)
            con.execute(f"CREATE SAVEPOINT {name}")
        con.warehouse.driver._writer = self.tasks.append

    def _ask(self, con: forebay.Connection) -> None:
        """Whether the statement that died has happened."""
        if self.unsure is not None:
            found = self._tables(con)
            assert found in (self.unsure, (self.shops, self.notes))
            (self.shops, self.notes), self.unsure = found, None

    def _tables(self, con: forebay.Connection) -> tuple[dict[int, str], list[int]]:
        notes = con.sql("SELECT n FROM notes ORDER BY n").fetchall()
        return dict(con.sql("SELECT id, name FROM shops").fetchall()), [n for (n,) in notes]

    # -- the end ------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        con = self._open(Mount(self.disk))
        driver = con.warehouse.driver
        driver._writer = lambda work: work()
        for _ in range(3):
            while self._step(driver):
                pass
            driver.checkpoint()
            for job in driver.jobs.values():
                for runner in job.runners:
                    while runner.step():
                        pass
        assert all(job.status.name == "RUNNING" for job in driver.jobs.values()), [
            j.error for j in driver.jobs.values()
        ]
        self._check(con)
        con.warehouse.close(final_checkpoint=False)

    def _check(self, con: forebay.Connection) -> None:
        assert self._tables(con) == (self.shops, self.notes)
        store = self._outside
        if self.booted:
            expected = Counter((key, v, self.shops.get(shop)) for key, (shop, v) in self.history.items())
            assert Counter(con.sql("SELECT * FROM past").fetchall()) == expected
        if self.expiring is not None:
            self._check_expiring(con, self.expiring)
        if "by_shop" in self.outputs:
            assert Counter(con.sql("SELECT * FROM by_shop").fetchall()) == Counter(self._by_shop())
        if "wide" in self.outputs:
            assert _changes(_records(store, "wide")) == Counter(self._wide())
        if "totals" in self.outputs:
            latest = {json.loads(key or b"")["shop"]: value for key, value in _records(store, "totals")}
            found = {key: json.loads(value) for key, value in latest.items() if value is not None}
            assert {k: (r["orders"], r["v"]) for k, r in found.items()} == self._totals()
        if "files" in self.outputs:
            assert self._files() == Counter(r for r in self.refunds if r[1] > 3)

    def _check_expiring(self, con: forebay.Connection, expiring: expiry.Expiring) -> None:
        matched, every, recent = expiring.results()
        assert _changes(_records(self._outside, "matched")) == matched
        assert Counter(con.sql("SELECT * FROM every").fetchall()) == every
        assert {shop: tuple(rest) for shop, *rest in con.sql("SELECT * FROM recent").fetchall()} == recent

    def _wide(self) -> list[Row]:
        refunds: dict[int, list[int | None]] = {}
        for key, w in self.refunds:
            refunds.setdefault(key, []).append(w)
        return [
            (key, v, w, self.shops.get(shop))
            for key, (shop, v) in self.orders.items()
            for w in refunds.get(key, [None])
        ]

    def _totals(self) -> dict[int, tuple[int, int]]:
        shops = {shop for shop, _ in self.orders.values()}
        values = {s: [v for shop, v in self.orders.values() if shop == s] for s in shops}
        return {s: (len(vs), sum(vs)) for s, vs in values.items()}

    def _by_shop(self) -> list[Row]:
        totals = self._totals()
        return [(s, name, *totals.get(s, (0, None))) for s, name in self.shops.items()]

    def _files(self) -> Counter[Row]:
        found: Counter[Row] = Counter()
        for name in self.disk.list(self.root / "files"):
            if name.startswith("part-"):
                lines = self.disk.read(self.root / "files" / name).decode().splitlines()
                found.update((r["order_id"], r["w"]) for r in map(json.loads, lines))
        return found


def _records(store: Any, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """(key, value) of every visible record of a topic of one partition."""
    found = []
    for segment in store.segments(topic, 0):
        for head in store.heads(topic, 0, segment):
            rows = read_rows(store.files, store.segment_file(topic, 0, segment), head)
            found += list(zip(rows.column("key").to_pylist(), rows.column("value").to_pylist(), strict=True))
    return found


def _changes(records: list[tuple[bytes | None, bytes | None]]) -> Counter[Row]:
    """What debezium-json records add up to."""
    found: Counter[Row] = Counter()
    for _, value in records:
        change = json.loads(value or b"")
        for side, weight in (("before", -1), ("after", 1)):
            if change.get(side) is not None:
                found[tuple(change[side].values())] += weight
    assert all(n >= 0 for n in found.values())
    return +found
