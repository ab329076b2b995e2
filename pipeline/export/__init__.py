"""The rows of an output in the files that other programs read: `bei-jobs export`."""
