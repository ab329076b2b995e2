"""Architectures of published checkpoints, by config.json and tensor names. Imports no torch."""
