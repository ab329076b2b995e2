"""bei-jobs from Python."""
