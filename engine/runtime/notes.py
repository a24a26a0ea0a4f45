"""What sources report besides rows, the latest of it: for SHOW DEAD LETTERS and the like."""

from __future__ import annotations

from dataclasses import dataclass, field

from forebay.engine.connector import DeadLetter, Fetched, SchemaChange


@dataclass(slots=True)
class Notes:
    """Each with its table, oldest first."""

    dead: list[tuple[str, DeadLetter]] = field(default_factory=list)
    schema_changes: list[tuple[str, SchemaChange]] = field(default_factory=list)
    unknown_fields: dict[tuple[str, str], int] = field(default_factory=dict)

    def take(self, table: str, fetched: Fetched, most: int) -> None:
        """Note what came with some rows; at most so many entries of a kind are kept."""
        self.dead.extend((table, d) for d in fetched.dead)
        del self.dead[:-most]
        self.schema_changes.extend((table, c) for c in fetched.schema_changes)
        del self.schema_changes[:-most]
        for name, count in fetched.unknown_fields.items():
            self.unknown_fields[table, name] = self.unknown_fields.get((table, name), 0) + count
