"""Attention as two batched products of oneDNN and a softmax between: bfloat16 on a CPU.

scaled_dot_product_attention multiplies in blocks of its own, which gain nothing from a CPU's
bfloat16 instructions; a batched product gains three times. Logits are rounded to bfloat16, which
doubles the rounding error of attention and is not seen in a vector (docs/benchmarks.md).

Shape suffixes as in `attention`, and M: matrices of one product, B * H.
"""

# ruff: noqa: N803, N806 - shape suffixes

from __future__ import annotations

import torch
from torch import Tensor

# Logits that one product makes: 1 MiB in bfloat16, which stays in the cache of a core. A quarter
# of it and four times as much are 5 to 25 % slower.
MAX_LOGITS = 512 * 1024


def of_each_head(x_BKLD: Tensor, heads: int) -> Tensor:
    """Keys or values as the heads of queries read them, [B, H, L, D], laid out for products.

    A copy, so it is made once for all tiles of query rows.
    """
    shared = heads // x_BKLD.shape[1]
    return x_BKLD.repeat_interleave(shared, dim=1) if shared > 1 else x_BKLD.contiguous()


def attend_in_products(
    q_BHQD: Tensor, k_BHCD: Tensor, v_BHCD: Tensor, mask_1PQC: Tensor | None, scale: float
) -> Tensor:
    """Softmax(scale · q · kᵀ + mask) · v, in the dtype of q.

    Args:
        q_BHQD: queries.
        k_BHCD: keys, from `of_each_head`.
        v_BHCD: values, from there too.
        mask_1PQC: is added to the logits, for every head or one for each; None for none.
        scale: of the logits.

    Returns:
        [B, H, Q, D].
    """
    sequences, heads, rows, width = q_BHQD.shape
    columns = k_BHCD.shape[2]
    q_MQD = q_BHQD.reshape(-1, rows, width)
    k_MDC = k_BHCD.flatten(0, 1).transpose(1, 2)
    v_MCD = v_BHCD.flatten(0, 1)
    out_MQD = torch.empty_like(q_MQD)
    ignored = q_MQD.new_empty(1)  # with beta 0
    at_once = max(1, MAX_LOGITS // (rows * columns))
    if mask_1PQC is not None and mask_1PQC.shape[1] > 1:
        # Whole sequences, so that each matrix meets the mask of its head.
        at_once = max(heads, at_once - at_once % heads)
    for start in range(0, q_MQD.shape[0], at_once):
        part = slice(start, start + at_once)
        logits_MQC = torch.baddbmm(ignored, q_MQD[part], k_MDC[part], beta=0, alpha=scale)
        if mask_1PQC is not None:
            logits_MQC.view(-1, mask_1PQC.shape[1], rows, columns).add_(mask_1PQC)
        torch.softmax(logits_MQC, dim=-1, out=logits_MQC)
        torch.bmm(logits_MQC, v_MCD[part], out=out_MQD[part])
    return out_MQD.view(sequences, heads, rows, width)
