"""On a CPU: OpenVINO, or ONNX Runtime where it is not installed."""
