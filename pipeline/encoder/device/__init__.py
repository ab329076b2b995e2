"""Devices, their memory, and the capture of CUDA graphs."""
