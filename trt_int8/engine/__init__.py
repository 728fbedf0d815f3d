"""TensorRT: build, coverage, bundle."""
