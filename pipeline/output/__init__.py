"""An output prefix: runs, plans, parts, manifests, quarantine, and how a run stands."""
