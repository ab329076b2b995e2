"""What a change of model, or of its options, would do to a corpus: `bei-jobs rehearse`.

`rehearsal.py` is the main path: draw a sample, compute it on both sides, compare.
"""
