"""Devices, their memory, and recording what they run."""
