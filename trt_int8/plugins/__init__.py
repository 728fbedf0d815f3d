"""CUDA kernels for TensorRT plugins: sources, NumPy models, compilation."""
