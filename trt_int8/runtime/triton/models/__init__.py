"""Code for Triton's Python backend: copied there as `model.py`, without this package."""
