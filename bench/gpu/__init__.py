"""The path through an NVIDIA GPU."""
