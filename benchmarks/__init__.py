"""Measurements: run from a clone, e.g. `python -m benchmarks.commands`. Not part of the installed application."""
