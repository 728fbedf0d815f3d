"""Versions of the kernels that were tried: each one built from the shipped sources and counted."""
