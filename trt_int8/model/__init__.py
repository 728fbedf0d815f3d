"""Find and load models; where their matmuls are."""
