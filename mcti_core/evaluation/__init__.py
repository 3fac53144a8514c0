"""Evaluation: metrics, baselines and the benchmark over shots and seeds."""
