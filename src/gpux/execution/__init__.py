"""Runs tensors through ONNX Runtime, on the CPU or on a GPU. Knows no requests, queues or JSON."""
