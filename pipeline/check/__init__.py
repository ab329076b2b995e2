"""What `bei-jobs check` proves on a sample: precision, batch invariance, tokens and values."""
