"""From a physical plan to a running dataflow: batches, operators, state, runtime, serving."""
