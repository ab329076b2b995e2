"""What a checkpoint's files together publish: the modules after its encoder, the width of its
vectors, and the longest sequence.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.checkpoint.checkpoint import Checkpoint
from pipeline.encoder.checkpoint.cross_encoder import PUBLISHED_MAX_LENGTH, CrossEncoder
from pipeline.encoder.checkpoint.modules import (
    DenseModule,
    NormalizeModule,
    SentenceModules,
    TruncateModule,
)
from pipeline.encoder.checkpoint.tokenizer_reading import TokenizerReading
from pipeline.errors import CheckpointError

# transformers writes 10^30 where a tokenizer has no limit.
_NO_LIMIT = 10**9
# sentence-transformers leaves their prompt out of the pooling, which their files do not say.
_INSTRUCTOR = tuple(f"hkunlp/instructor-{size}" for size in ("base", "large", "xl"))


def published_modules(
    modules: SentenceModules, checkpoint: Checkpoint, config: EncoderConfig
) -> SentenceModules:
    """The modules with what sentence-transformers does beside them: INSTRUCTOR, truncate_dim."""
    if checkpoint.name in _INSTRUCTOR:
        modules = replace(modules, include_prompt=False)
    kept = modules.truncate_dim
    if kept is None or kept >= published_width(modules, config):
        return modules
    return replace(modules, steps=(*modules.steps, TruncateModule(kept)))


def published_width(modules: SentenceModules, config: EncoderConfig) -> int:
    """Width of the vectors that a checkpoint publishes.

    Raises:
        CheckpointError: a module takes vectors of another width than its predecessor returns.
    """
    # Without pooling, the modules over the vectors of tokens.
    size = config.output_size * (len(modules.pooling) or int(modules.multi is not None))
    for step in modules.steps:
        if isinstance(step, TruncateModule):
            size = step.dimensions
        if isinstance(step, NormalizeModule | TruncateModule):
            continue
        expected = step.in_features if isinstance(step, DenseModule) else step.dimension
        if expected != size:
            raise CheckpointError(
                f"the module in {step.folder} takes vectors of {expected} dimensions, but gets "
                f"{size}",
                hint="check that the module files belong to each other and to this encoder",
            )
        size = step.out_features if isinstance(step, DenseModule) else size
    return size


def longest_sequence(
    tokenizer: TokenizerReading,
    modules: SentenceModules,
    config: EncoderConfig,
    cross_encoder: CrossEncoder,
    positions: int | None,
    *,
    has_table: bool,
) -> int | None:
    """The most tokens of one sequence, special tokens included; None if nothing bounds them.

    As in sentence-transformers: max_seq_length of the module files if set, else the lower of the
    tokenizer's limit and the config's positions; never more than a learned position table holds,
    nor than the authors' code reads where that stands for the files. Of a table, only
    tokenizer.json's own truncation.
    """
    if config.static:
        return config.max_length
    bounds: list[int | None] = [modules.max_seq_length]
    if modules.max_seq_length is None:
        bounds = [tokenizer.limit]
    if modules.max_seq_length is None or has_table:
        bounds.append(positions)
    if cross_encoder.recipe is not None:
        bounds.append(PUBLISHED_MAX_LENGTH)
    return min((n for n in bounds if n is not None and 0 < n < _NO_LIMIT), default=None)
