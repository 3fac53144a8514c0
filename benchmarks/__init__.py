"""Speed and memory, measured: each module is a script that prints a table and writes JSON.

Run from the repository's root, for example ``python -m benchmarks.speed --json speed.json``.
"""
