"""From a statement to a plan: dialect, catalog, binding, typed logical plan, physical plan, EXPLAIN."""
