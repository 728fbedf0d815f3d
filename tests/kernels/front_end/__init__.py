"""NVIDIA's own `tensorrt.plugin` package, driven the way TensorRT's builder drives it.

`cases.py` is the way in. What runs where: `cases.py` and `runs.py` in the test's process,
`child.py`, `builder.py` and `expressions.py` in a child process with the genuine bindings.
"""
