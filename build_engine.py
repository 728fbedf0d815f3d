"""Build a verified INT8 bundle: `python build_engine.py --model … ` is `trt-int8 build …`."""

from trt_int8.cli import entry

if __name__ == "__main__":
    entry()
