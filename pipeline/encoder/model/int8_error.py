"""How far int8 is from float32 on a model's own weights, as a sentence for a part's metadata."""

from __future__ import annotations

import torch

from pipeline.encoder.architecture.encoder_config import EncoderConfig
from pipeline.encoder.model.load import ForwardPass
from pipeline.encoder.model.packed_batch import PackedBatch

_SEQUENCES = 32
_TOKENS = 64  # per sequence


@torch.inference_mode()
def int8_error(lossy: ForwardPass, exact: ForwardPass, config: EncoderConfig) -> str:
    """Compare the mean hidden states of random token sequences, the same ones every time.

    Random tokens are harder than text: their activations are further apart.
    """
    total = _SEQUENCES * _TOKENS
    generator = torch.Generator().manual_seed(0)
    offsets = range(0, total + 1, _TOKENS)
    packed = PackedBatch(
        ids=torch.randint(config.vocab_size, (total,), dtype=torch.int32, generator=generator),
        cu_seqlens=torch.tensor(offsets, dtype=torch.int32),
        offsets=list(offsets),
        max_seqlen=_TOKENS,
        type_ids=None,
    )
    exact_rows, lossy_rows = (
        forward(packed).float().view(_SEQUENCES, -1, config.hidden_size).mean(1)
        for forward in (exact, lossy)
    )  # [sequences, E]
    least = float(torch.cosine_similarity(exact_rows, lossy_rows).min())
    return f"least cosine to float32 {least:.4f} on {_SEQUENCES} random sequences of {_TOKENS}"
