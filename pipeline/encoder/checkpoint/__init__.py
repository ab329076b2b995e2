"""Where a checkpoint comes from and what its files say. Imports no torch."""
