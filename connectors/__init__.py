"""Connectors and formats: everything that speaks to the outside."""

from __future__ import annotations

from forebay.engine.connector import Registry
from forebay.engine.files import Clock, Files


def default_registry(files: Files | None = None, clock: Clock | None = None) -> Registry:
    """Every connector and format that comes with Forebay. `files` and `clock` take the place of the real ones."""
    from forebay.connectors import blackhole, datagen, filesystem, formats, kafka, nexmark, topiclog
    from forebay.connectors import print as print_rows

    registry = Registry()
    for module in (formats, blackhole, datagen, kafka, nexmark, print_rows):
        module.register(registry)
    topiclog.register(registry, files, clock)
    filesystem.register(registry, files, clock)
    return registry
