"""`python -m trt_int8` is `trt-int8`."""

from trt_int8.cli import main

if __name__ == "__main__":
    main()
