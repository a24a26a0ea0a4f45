"""Neighbouring Projects become one, and a Project that changes nothing goes.

Safe when no computed column would be computed twice; a volatile one never is.
"""

from __future__ import annotations

from forebay.planner.build import project
from forebay.planner.nodes import Node, Project


def merge_projects(node: Node) -> Node | None:
    """Project over Project -> one Project."""
    if not isinstance(node, Project):
        return None
    merged = project(node.input, node.exprs, node.schema)
    return None if isinstance(merged, Project) and merged.input is node.input else merged
