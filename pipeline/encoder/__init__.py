"""Checkpoints to models: files, families, one forward pass, heads, and the engine that runs them.

`checkpoint`, `families`, `modules`, `tokenizer` and `describe` import no torch; `engine` does.
"""
