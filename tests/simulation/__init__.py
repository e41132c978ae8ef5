"""A deterministic simulation of the delivery protocol: log, store, workers and faults in one process.

``docs/delivery.md`` says what it proves; ``python -m tests.simulation --help`` how it is run.
"""
