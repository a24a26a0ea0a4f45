"""`forebay demo`: the whole way of a food-delivery company's data, from its binlog to served metrics, checked against a batch
recomputation. On Kafka if KAFKA_BOOTSTRAP is set, else on the embedded topic log."""

from __future__ import annotations

from forebay.demo.run import Report, run

__all__ = ["Report", "run"]
