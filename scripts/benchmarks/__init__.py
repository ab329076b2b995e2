"""Benchmarks: every figure is a ratio to a named peer in one run. Started by scripts/bench."""
