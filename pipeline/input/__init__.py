"""Input files: discovered, described, cut into shards, read as record batches."""
