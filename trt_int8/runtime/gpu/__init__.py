"""On a GPU: a TensorRT engine, driven through cuda-python."""
