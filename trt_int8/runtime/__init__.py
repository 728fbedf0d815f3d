"""Runs a bundle: on a GPU its TensorRT engine, on a CPU its Q/DQ graph."""
