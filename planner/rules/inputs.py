"""The same node over other inputs."""

from __future__ import annotations

from dataclasses import replace

from forebay.planner.nodes import Join, Node, Union


def with_inputs(node: Node, inputs: tuple[Node, ...]) -> Node:
    """The same node over other inputs of the same schemas."""
    match node:
        case Join():
            return replace(node, left=inputs[0], right=inputs[1])
        case Union():
            return replace(node, parts=inputs)
    return replace(node, input=inputs[0])  # type: ignore[call-arg]
