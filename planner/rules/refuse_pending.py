"""What no rule turned into a streaming shape is refused by name, with what to write instead."""

from __future__ import annotations

from forebay.engine.errors import UnsupportedError
from forebay.planner.nodes import Node
from forebay.planner.pending import Over, Sort

RANKINGS = frozenset(("row_number", "rank", "dense_rank"))


def refuse_pending(node: Node) -> None:
    """Raises:
    UnsupportedError: the plan holds an OVER window or an OFFSET that streaming cannot run.
    """
    for part in node.inputs:
        refuse_pending(part)
    if isinstance(node, Sort):
        raise UnsupportedError("OFFSET without LIMIT is not supported", hint="add a LIMIT")
    if isinstance(node, Over):
        _refuse_over(node)


def _refuse_over(node: Over) -> None:
    names = sorted({call.name for call in node.calls})
    written = " and ".join(f"{name.upper()}(...) OVER" for name in names)
    if len(names) == 1 and names[0] in RANKINGS and len(node.calls) == 1:
        if not node.calls[0].order:
            raise UnsupportedError(
                f"{written} needs an ORDER BY", hint="say which rows come first: OVER (... ORDER BY ts)"
            )
        raise UnsupportedError(
            f"{written} needs an upper bound on the rank",
            detail="every new row would renumber all rows after it",
            hint="keep the first n rows: SELECT ... FROM (SELECT ..., ROW_NUMBER() OVER (...) AS n FROM t) WHERE n <= 10",
        )
    raise UnsupportedError(
        f"{written} {'is' if len(names) == 1 else 'are'} not supported in a continuous query",
        hint="use GROUP BY with a window table (TUMBLE, HOP, CUMULATE), or ROW_NUMBER() with a filter on the number",
    )
