"""Which rows are alike? `python neighbours.py OUTPUT ID` reads what bei-jobs wrote with polars."""

import subprocess
import sys

import polars as pl

output, chosen = sys.argv[1:]
parts = subprocess.run(["bei-jobs", "files", output], check=True, capture_output=True, text=True)
rows = pl.scan_ipc(parts.stdout.splitlines()).filter(pl.col("error").is_null()).collect()

vectors = rows["embedding"].to_numpy()  # [rows, 384] float32, each of length 1
query = vectors[rows["id"].index_of(chosen)]
nearest = rows.select("id", cosine=vectors @ query).sort("cosine", descending=True).head(6)
print(nearest)
