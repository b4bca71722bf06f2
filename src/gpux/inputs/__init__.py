"""Converts the values of a request, JSON or Python, to the tensors of one run. Does not run the model."""
