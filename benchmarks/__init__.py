"""Measure speed and memory: each module is a script that prints a table and writes JSON.

Run it from the repository's root, for example ``python -m benchmarks.speed --output-json speed.json``.
"""
