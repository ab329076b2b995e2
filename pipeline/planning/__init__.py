"""From a request to a run that can be executed."""
