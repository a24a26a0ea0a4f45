"""The second stage of reading JSON: spans of one column (see `kernels.json_scan`) to the buffers of an Arrow array.

Each kernel writes a value per span, sets the bit of those that are there, counts the others, and marks in `bad` what it
cannot vouch for: what is refused and what is merely rare (a plus sign, blanks around a number in text). Marked rows are read
again by the reference, so a kernel here may give up on anything but must never read a value differently.
"""

from __future__ import annotations

from forebay.kernels.json_moments import DATE, TIME, TIMESTAMP, moments
from forebay.kernels.json_numbers import booleans, decimals, floats, integers
from forebay.kernels.json_scan import INTEGER, LIST, LONGEST, NULL, OBJECT
from forebay.kernels.json_spans import (
    absent,
    changed,
    codes,
    containers,
    gather,
    list_elements,
    list_offsets,
    overlay,
    spread,
)
from forebay.kernels.json_texts import base64, text_room, texts

__all__ = [
    "DATE",
    "INTEGER",
    "LIST",
    "LONGEST",
    "NULL",
    "OBJECT",
    "TIME",
    "TIMESTAMP",
    "absent",
    "base64",
    "booleans",
    "changed",
    "codes",
    "containers",
    "decimals",
    "floats",
    "gather",
    "integers",
    "list_elements",
    "list_offsets",
    "moments",
    "overlay",
    "spread",
    "text_room",
    "texts",
]
