"""Accuracy and the report."""
