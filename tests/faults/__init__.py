"""Faults that are caused on purpose, many times, and what became of the user's things: `python -m tests.faults`."""
