"""The `blackhole` sink: takes every row and keeps none, for measurements and dry runs."""

from __future__ import annotations

from forebay.engine.batch import Batch
from forebay.engine.connector import Changelog, Connector, Registry, Sink


class BlackholeSink(Sink):
    """Knows no id after a restart: what is sent again vanishes again."""

    def recover(self) -> int | None:
        return None

    def write(self, batch: Batch) -> None:
        pass

    def commit(self, checkpoint: int) -> None:
        pass


def register(registry: Registry) -> None:
    """Make `'connector' = 'blackhole'` known."""
    registry.connectors["blackhole"] = Connector(
        "blackhole", (), sink=lambda spec: BlackholeSink(), sink_changelog=lambda spec: Changelog.RETRACT
    )
