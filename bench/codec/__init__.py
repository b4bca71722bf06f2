"""JSON text and Python values to tensors, and back."""
