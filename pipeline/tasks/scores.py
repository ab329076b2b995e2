"""Logits → scores, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pipeline.tasks.base import Float32Array


def sigmoid(logits: Float32Array) -> Float32Array:
    """1 / (1 + exp(-x)) of each value, without overflow."""
    scores: Float32Array = np.exp(-np.logaddexp(np.float32(0), -logits))
    return scores


def softmax(logits: Float32Array) -> Float32Array:
    """exp(x) / Σ exp(x) over the last axis, without overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: Float32Array = powers / powers.sum(axis=-1, keepdims=True)
    return scores


def relu(logits: Float32Array) -> Float32Array:
    """The logits, 0 for those below."""
    return np.maximum(logits, np.float32(0))


# Activations of torch.nn that a checkpoint may name for its scores.
ACTIVATIONS: Mapping[str, Callable[[Float32Array], Float32Array]] = {
    "Identity": lambda logits: logits,
    "Sigmoid": sigmoid,
    "Tanh": np.tanh,
    "ReLU": relu,
}
