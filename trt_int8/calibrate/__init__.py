"""Texts, ranges and their caches."""
