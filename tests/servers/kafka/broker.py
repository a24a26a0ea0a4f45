"""A real Kafka broker of its own for a test run: KRaft, one node, free ports, a temporary directory.

`kill` is kill -9, `restart` starts the same data on the same ports again. The jars are fetched by Maven once.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

HERE = Path(__file__).parent
LIBS = HERE.parents[2] / ".servers" / "kafka" / "libs"
CLUSTER = "Zm9yZWJheS10ZXN0cy0wMQ"
UP_SECONDS = 60.0


def missing() -> str | None:
    """What this machine lacks to run a broker, or None."""
    tools = ["java"] if LIBS.is_dir() else ["java", "mvn"]
    lacking = [t for t in tools if shutil.which(t) is None]
    return ", ".join(lacking) or None


def fetch_libs() -> None:
    """Download the broker's jars unless they are there."""
    if LIBS.is_dir() and any(LIBS.glob("kafka_2.13-*.jar")):
        return
    pom = str(HERE / "pom.xml")
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={LIBS}"]
    subprocess.run(["mvn", "-q", "-B", "-f", pom, *goal], check=True)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Broker:
    """One broker process over `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        port, controller = _free_port(), _free_port()
        self.bootstrap = f"127.0.0.1:{port}"
        self._config = directory / "server.properties"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(directory / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            # short enough that a killed broker is let in again at once, and that a test can wait for a timeout
            "broker.session.timeout.ms": "1500",
            "broker.heartbeat.interval.ms": "300",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
            "log.initial.task.delay.ms": "500",
            "log.segment.delete.delay.ms": "500",
            "log.retention.ms": "-1",  # tests write records of long ago
        }
        self._config.write_text("".join(f"{k}={v}\n" for k, v in settings.items()))

    def start(self) -> None:
        """Format the storage and start."""
        fetch_libs()
        tool = ["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(self._config)]
        subprocess.run(self._java(*tool), check=True, capture_output=True)
        self.restart()

    def restart(self) -> None:
        """Start over the data that is there; return when the broker answers."""
        with open(self._directory / "broker.log", "ab") as log:
            command = self._java("kafka.Kafka", str(self._config))
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))
        deadline = time.monotonic() + UP_SECONDS
        while True:
            try:
                self.admin().list_topics(timeout=1)
                return
            except KafkaException:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise

    def _java(self, *arguments: str) -> list[str]:
        return ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", f"{LIBS}/*", *arguments]

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def create_topic(self, name: str, partitions: int = 1, config: dict[str, str] | None = None) -> None:
        topic = NewTopic(name, partitions, 1, config=config or {})
        admin = self.admin()  # a future fails once its client is gone
        admin.create_topics([topic])[name].result()

    def delete_topic(self, name: str) -> None:
        admin = self.admin()
        admin.delete_topics([name])[name].result()

    def grow(self, name: str, partitions: int) -> None:
        admin = self.admin()
        admin.create_partitions([NewPartitions(name, partitions)])[name].result()

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Remove the records before an offset, as retention does."""
        at = TopicPartition(topic, partition, before)
        admin = self.admin()
        for future in admin.delete_records([at]).values():
            future.result()
