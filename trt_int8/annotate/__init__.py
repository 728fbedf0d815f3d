"""Which tensors go INT8, and the quantizers that mark them."""
