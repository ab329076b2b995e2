"""An output prefix: its runs, plans, parts, manifests and quarantine, and the status of a run."""
