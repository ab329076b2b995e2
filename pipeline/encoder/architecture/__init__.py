"""What a published checkpoint is, from its config.json and tensor names. Imports no torch."""
