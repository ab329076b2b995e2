"""Checkpoints to models: files, families, one forward pass, heads, and the engine that runs them.

`checkpoint/`, `architecture/`, `card`, `tokenizer` and `precision` import no torch.
"""
