"""Input files: found, described, cut into shards, read as record batches."""
