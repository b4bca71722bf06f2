"""Converts the values of a request, JSON or Python, to the tensors of one run. Runs nothing."""
