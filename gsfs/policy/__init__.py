"""Decisions: facts in (clock, prices, histories, candidates), decision out. Never does I/O, never reads a clock.

The mount, the command line and the simulator call the very same functions; ``docs/policies.md`` explains them.
"""
