"""Nexmark: `python -m bench.nexmark --queries q0,q3 --events N [--source generator|kafka|log] [--sink ...] --json FILE`.

Every query runs in a process of its own, pinned to one core, and is timed from its INSERT until the bounded input is
consumed and the sink has everything. With the generator as the source, the CPU seconds that it spends on making the events
are counted and taken off those of the process: `engine_rows_per_s` is events per core-second of the engine alone.
`--publish` fills a Kafka topic first.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import pyarrow as pa

from bench import broker, measure

QUERIES = Path(__file__).parent / "queries" / "nexmark"
UPDATING = frozenset(("q4", "q9", "q15", "q16", "q17", "q18", "q19"))
"""Queries whose results change: they are written to Kafka with a changelog format."""
PEERS = {
    "generator": {
        "q0": 3_300_000,
        "q1": 1_500_000,
        "q3": 2_700_000,
        "q4": 1_130_000,
        "q9": 240_000,
        "q18": 460_000,
        "q19": 480_000,
        "q20": 580_000,
    },
    "kafka": {"q0": 189_000, "q3": 199_000, "q4": 48_000, "q9": 23_000, "q18": 60_000, "q20": 36_000},
}
"""What the best peer did on a machine of the same kind: per core-second of its engine, hand-written circuits of Feldera; from
Kafka, Flink 2.2 with RocksDB."""
COLUMNS = ("case", "rows", "seconds", "rows_per_s", "engine_rows_per_s", "cpu_seconds", "peak_rss_mb")


def query_names() -> list[str]:
    """Every query that has a text, in order."""
    return sorted((p.stem for p in QUERIES.glob("q*.sql")), key=lambda name: int(name[1:]))


def options_text(options: Mapping[str, str]) -> str:
    """Options as they stand in WITH (...)."""
    quoted = ((k.replace("'", "''"), v.replace("'", "''")) for k, v in options.items())
    return ", ".join(f"'{k}' = '{v}'" for k, v in quoted)


def statements(name: str, source: Mapping[str, str], sink: Mapping[str, str]) -> list[str]:
    """The statements of a file ('tables' or a query) over a source and into a sink."""
    text = Template((QUERIES / f"{name}.sql").read_text())
    filled = text.substitute(source=options_text(source), sink=options_text(sink))
    plain = re.sub(r"--[^\n]*\n", "", filled)
    return [s.strip() for s in plain.split(";") if s.strip()]


def source_options(args: argparse.Namespace) -> dict[str, str]:
    """Where the events come from."""
    bounded = {"scan.startup.mode": "earliest-offset", "scan.bounded.mode": "latest-offset"}
    match args.source:
        case "kafka":
            return {**_kafka(args.bootstrap, args.topic), **bounded}
        case "log":
            return {"connector": "log", "topic": args.topic, "format": "json", **bounded}
    return {"connector": "nexmark", "events.num": str(args.events), "seed": str(args.seed)}


def sink_options(args: argparse.Namespace, query: str) -> dict[str, str]:
    """Where the results go."""
    if args.sink == "blackhole":
        return {"connector": "blackhole"}
    options = _kafka(args.bootstrap, f"{args.topic}-{query}")
    if query in UPDATING:
        options["format"] = "debezium-json"
    if args.guarantee == "exactly-once":
        options["sink.transactional-id-prefix"] = f"nexmark-{query}"
    return {**options, "sink.delivery-guarantee": args.guarantee}


def _kafka(bootstrap: str | None, topic: str) -> dict[str, str]:
    if not bootstrap:
        raise SystemExit("bench.nexmark: Kafka needs --bootstrap HOST:PORT")
    options = {"connector": "kafka", "topic": topic, "properties.bootstrap.servers": bootstrap, "format": "json"}
    return {**options, "properties.group.id": f"nexmark-{topic}"}


# --- one case, in its own process ------------------------------------------------------------------------------------


def run_query(name: str, args: argparse.Namespace) -> measure.Result:
    """Run one query to its end."""
    import forebay

    with tempfile.TemporaryDirectory() as directory, forebay.connect(directory if args.durable else ":memory:") as con:
        source, sink = source_options(args), sink_options(args, name)
        for statement in statements("tables", source, sink):
            con.execute(statement)
        *tables, insert = statements(name, source, sink)
        for statement in tables:
            con.execute(statement)

        def work() -> dict[str, Any]:
            with timed_generator() as generator:
                con.execute(insert)
                con.wait(timeout=args.timeout)
            return generator

        result = measure.measure(name, args.events, work)
    if args.source == "generator":
        engine = result.cpu_seconds - result.more["generator_seconds"]
        result.more["engine_rows_per_s"] = round(result.rows / engine)
    else:
        result.more.clear()
    return result


@contextmanager
def timed_generator() -> Iterator[dict[str, Any]]:
    """Count the CPU seconds that every nexmark source opened within spends on making its events."""
    from forebay.connectors import nexmark

    spent: dict[str, Any] = {"generator_seconds": 0.0}

    class Timed(nexmark.Generator):
        def __call__(self, first: int, count: int) -> pa.RecordBatch:
            started = time.thread_time()
            rows = super().__call__(first, count)
            spent["generator_seconds"] += time.thread_time() - started
            return rows

    plain, nexmark.Generator = nexmark.Generator, Timed  # type: ignore[misc]
    try:
        yield spent
    finally:
        nexmark.Generator = plain  # type: ignore[misc]


def generate(events: int, seed: int) -> None:
    """Make every column of the events, into nothing."""
    from forebay.connectors.nexmark_events import SCHEMA, Generator, NexmarkConfig

    generator = Generator(NexmarkConfig(seed=seed), SCHEMA)
    for first in range(0, events, 8192):
        generator(first, min(8192, events - first))


def run_generator(args: argparse.Namespace) -> measure.Result:
    """The generator with every column, into nothing."""

    def work() -> None:
        generate(args.events, args.seed)

    return measure.measure("generator", args.events, work)


def publish(args: argparse.Namespace) -> measure.Result:
    """Write the events to the topic that `--source` names, as JSON."""
    import forebay

    with forebay.connect(":memory:") as con:
        generator = {"connector": "nexmark", "events.num": str(args.events), "seed": str(args.seed)}
        create = statements("tables", generator, {})[0]
        con.execute(create)
        target = {k: v for k, v in source_options(args).items() if not k.startswith("scan.")}
        con.execute(re.sub(r"WITH \(.*\)", f"WITH ({options_text(target)})", create.replace("nexmark", "events", 1)))

        def work() -> None:
            con.execute("INSERT INTO events SELECT * FROM nexmark")
            con.wait(timeout=args.timeout)

        return measure.measure("publish", args.events, work)


# --- all cases -------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("bench.nexmark", description="Nexmark queries, one process and one core each.")
    made.add_argument("--queries", default=",".join(query_names()), help="comma-separated; 'generator' is a case too")
    made.add_argument("--events", type=int, default=1_000_000)
    made.add_argument("--source", choices=("generator", "kafka", "log"), default="generator")
    made.add_argument("--sink", choices=("blackhole", "kafka"), default="blackhole")
    made.add_argument("--bootstrap", help="HOST:PORT of Kafka; without it a broker is started")
    made.add_argument("--topic", default="nexmark")
    made.add_argument(
        "--guarantee", default="at-least-once", help="of the Kafka sink; several, comma-separated, are compared"
    )
    made.add_argument("--publish", action="store_true", help="make the topic anew and fill it first")
    made.add_argument("--durable", action="store_true", help="a warehouse on disk, with checkpoints")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--core", type=int, default=0, help="core that each process is pinned to; -1 for none")
    made.add_argument("--timeout", type=float, default=1800.0, help="seconds per query")
    made.add_argument("--json", metavar="FILE", help="where the results go; '-' is standard output")
    made.add_argument("--case", help=argparse.SUPPRESS)
    return made


def run_case(args: argparse.Namespace) -> None:
    """Run the one case that this process is for, and print its entry."""
    if args.core >= 0:
        measure.pin([args.core])
    match args.case:
        case "generator":
            result = run_generator(args)
        case "publish":
            result = publish(args)
        case _:
            result = run_query(args.case, args)
    print(json.dumps(result.entry()))


def main(argv: list[str] | None = None) -> int:
    """Run the cases; returns 1 if one failed."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    if args.case:
        run_case(args)
        return 0
    cases = [q.strip() for q in args.queries.split(",") if q.strip()]
    unknown = set(cases) - {*query_names(), "generator"}
    if unknown:
        raise SystemExit(f"bench.nexmark: no query {', '.join(sorted(unknown))}; there are {', '.join(query_names())}")
    if args.sink == "kafka" and "," in args.guarantee:
        cases = [f"{case}, {guarantee}" for case in cases for guarantee in args.guarantee.split(",")]
    cases = (["publish"] if args.publish else []) + cases
    if "kafka" in (args.source, args.sink):
        with broker.reached(args.bootstrap, 1 if args.core == 0 else None) as bootstrap:
            args.bootstrap = bootstrap
            for topic in topics_made(args, cases):
                broker.fresh_topic(bootstrap, topic)
            entries = run_cases(cases, [*argv, "--bootstrap", bootstrap], args.timeout)
    else:
        entries = run_cases(cases, argv, args.timeout)
    if args.sink == "blackhole":
        peers = PEERS.get(args.source, {})
        entries = [e | ({"peer": peers[e["case"]]} if e["case"] in peers else {}) for e in entries]
    setting = {"source": args.source, "sink": args.sink, "events": args.events, "core": args.core}
    measure.report("nexmark", entries, args.json, **setting)
    return int(any("error" in entry for entry in entries))


def topics_made(args: argparse.Namespace, cases: Sequence[str]) -> list[str]:
    """The topics that the cases write."""
    made = [args.topic] if args.publish and args.source == "kafka" else []
    queries = dict.fromkeys(case.partition(",")[0] for case in cases)
    return made + [f"{args.topic}-{query}" for query in queries if args.sink == "kafka" and query in query_names()]


def run_cases(cases: Sequence[str], argv: Sequence[str], timeout: float) -> list[dict[str, Any]]:
    """Each case in a process of its own; a failed one has an 'error'."""
    entries: list[dict[str, Any]] = []
    for case in cases:
        query, _, guarantee = case.partition(", ")
        more = ["--guarantee", guarantee] if guarantee else []
        try:
            entry = measure.in_process("bench.nexmark", [*argv, *more, "--case", query], timeout + 120)
        except subprocess.SubprocessError as error:
            entry = {"error": str(error)}
        entry = {"case": case} | {k: v for k, v in entry.items() if k != "case"}
        entries.append(entry)
        print(measure.table([entry], COLUMNS) if "error" not in entry else f"{case}: {entry['error']}", file=sys.stderr)
    return entries


if __name__ == "__main__":
    sys.exit(main())
