"""Estimators: the range of one tensor from its statistics."""
