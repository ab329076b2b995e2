"""Which output of a model belongs to what: to a sequence, a token or a span."""

from __future__ import annotations

import numpy as np

from pipeline.packing import Int64Array
from pipeline.tokenize.tokens import Tokens


def output_rows(tokens: Tokens, *, per_token: bool) -> Int64Array:
    """The row that each output belongs to."""
    if tokens.spans is not None:
        return np.repeat(tokens.row_of, np.diff(tokens.spans.bounds))
    return tokens.token_rows if per_token else tokens.row_of


def output_bounds(tokens: Tokens, *, per_token: bool) -> Int64Array | None:
    """The first output of each sequence, [S + 1]; None where each has one."""
    if tokens.spans is not None:
        return tokens.spans.bounds
    return tokens.offsets if per_token else None
