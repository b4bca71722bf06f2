"""From a request's values, JSON or Python, to the tensors of one run. Does not run the model."""
