"""Types, shapes, memory and devices of tensors. Knows neither ONNX Runtime nor gpux.yml."""
