"""The forward pass: weights, attention, linear layers and heads, in torch."""
