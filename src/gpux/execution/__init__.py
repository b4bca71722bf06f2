"""Runs tensors through ONNX Runtime, on the CPU or on a GPU. Knows no HTTP, queues or JSON."""
