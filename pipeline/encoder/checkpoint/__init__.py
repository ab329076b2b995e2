"""Where a checkpoint comes from, and its files. Imports no torch."""
