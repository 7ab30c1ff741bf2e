"""Proofs under faults: nothing is executed twice, and nothing is told wrongly. `./dev faults --help`."""
