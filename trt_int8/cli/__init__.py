"""Command line: `trt-int8 build …` (`python build_engine.py …` is the same)."""

from trt_int8.cli.app import app, entry, main

__all__ = ["app", "entry", "main"]
