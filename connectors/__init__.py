"""Connectors and formats: everything that speaks to the outside."""

from __future__ import annotations

from forebay.engine.connector import Registry


def default_registry() -> Registry:
    """Every connector and format that comes with Forebay."""
    from forebay.connectors import blackhole, datagen, filesystem, formats, nexmark, topiclog
    from forebay.connectors import print as print_rows

    registry = Registry()
    for register in (
        formats.register,
        blackhole.register,
        datagen.register,
        nexmark.register,
        print_rows.register,
        topiclog.register,
        filesystem.register,
    ):
        register(registry)
    return registry
