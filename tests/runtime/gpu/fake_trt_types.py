"""Enums and sizes of the stand-in for TensorRT."""

from __future__ import annotations

from enum import Enum, IntEnum

SCRATCH_BYTES = 4096
RUBBISH = 0x5A
# (smallest, largest) B and S of each profile.
PROFILES = (((1, 16), (4, 64)), ((1, 65), (2, 300)))
PLAN = b"plan"


class Kind(Enum):
    FLOAT = "float32"
    INT32 = "int32"
    INT64 = "int64"
    FP8 = "none"


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class Strategy(Enum):
    STATIC = 0
    USER_MANAGED = 2


class Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class Location(Enum):
    DEVICE = 0
    HOST = 1


class Graphs(Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class Kernels(Enum):
    LAZY = 0
    EAGER = 1


class ILogger:
    Severity = Severity
