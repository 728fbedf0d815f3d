"""Why TensorRT rejects an ONNX file, does not fuse it or silently does not run it in INT8."""
