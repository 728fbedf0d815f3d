"""Verified INT8 deployment of Transformers on NVIDIA GPUs."""

__version__ = "0.1.0"
