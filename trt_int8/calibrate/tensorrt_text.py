"""The text of TensorRT's calibration caches: one scale per tensor, up to TensorRT 10.

Described line by line in calib_cache/README.md. Sources: ONNX Runtime's TensorRT execution
provider, which reads such files (ReadDynamicRange), and NVIDIA TAO's exporters, which write them.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

from trt_int8.errors import CalibrationError

CALIBRATORS = ("EntropyCalibration2", "MinMaxCalibration", "EntropyCalibration")
PREFIX = "TRT-"
# TensorRT 11 removed its calibrators from NvInfer.h.
_LAST_MAJOR = 10
# From this major version on, a header has two digits for the minor number.
_WIDE_MAJOR = 10


@dataclass(frozen=True)
class TensorRTCache:
    """A calibration cache as TensorRT writes it.

    Attributes:
        version: of TensorRT, such as `10.14.1`.
        calibrator: one of `CALIBRATORS`.
        scales: amax / 127 by tensor name, in the order of the lines; float32 numbers. 0 stands for
            a tensor without a range.

    Raises:
        CalibrationError: the text format cannot hold one of them.
    """

    version: str
    calibrator: str
    scales: dict[str, float]

    def __post_init__(self) -> None:
        _version_number(self.version)
        if self.calibrator not in CALIBRATORS:
            raise _refuse(
                f"calibrator {self.calibrator!r} is unknown", wanted=_one_of_calibrators()
            )
        for name, scale in self.scales.items():
            if not name or "\n" in name:
                raise _refuse(f"tensor name {name!r}", wanted="a name on one line")
            if _fault(scale):
                raise _refuse(f"the scale of {name!r} {_fault(scale)}", wanted="float32 >= 0")

    def to_text(self) -> str:
        """The file's text; in UTF-8, it is what TensorRT reads."""
        header = f"{PREFIX}{_version_number(self.version)}-{self.calibrator}\n"
        return header + "".join(f"{name}: {_to_hex(s)}\n" for name, s in self.scales.items())


def parse(data: str | bytes, source: str = "TensorRT calibration cache") -> TensorRTCache:
    """Read the text of a cache.

    Upper case and leading zeros of a scale are understood, though TensorRT writes neither.

    Args:
        data: the whole file.
        source: what to call it in errors.

    Raises:
        CalibrationError: it is no such text; the message tells the line and its fault.
    """
    lines = _lines(data, source)
    version, calibrator = _parse_header(lines[0], source)
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        where = f"{source}: line {number}"
        # The last ": ", for names hold colons and spaces: "(Unnamed Layer* 4) [Shuffle]: out".
        name, colon, digits = line.rpartition(": ")
        if not colon or not name:
            raise _refuse(f"{where} is {_short(line)}", wanted="tensor name, ': ' and a scale")
        if name in scales:
            raise _refuse(f"{where} names {name!r} again", wanted="each tensor once")
        if not re.fullmatch("[0-9A-Fa-f]{1,8}", digits):
            raise _refuse(
                f"{where} has the scale {_short(digits)}", wanted="1 to 8 hexadecimal digits"
            )
        scale = _from_hex(digits)
        if _fault(scale):
            raise _refuse(f"{where}: the scale of {name!r} {_fault(scale)}", wanted="float32 >= 0")
        scales[name] = scale
    return TensorRTCache(version, calibrator, scales)


def _lines(data: str | bytes, source: str) -> list[str]:
    raw = data.encode() if isinstance(data, str) else data
    if not raw:
        raise _refuse(f"{source} is empty", wanted="a header and a line per tensor")
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        number = raw[: error.start].count(b"\n") + 1
        raise _refuse(f"{source}: line {number} is not UTF-8 text", wanted="text") from error
    for number, line in enumerate(lines, start=1):
        if line.endswith("\r"):
            raise _refuse(
                f"{source}: line {number} ends with a carriage return", wanted="newlines alone"
            )
    # Half a scale is a scale too, of another tensor range: only the newline tells.
    if lines.pop():
        raise _refuse(
            f"{source}: line {len(lines) + 1} is cut off: there is no newline at its end",
            wanted="a whole file",
        )
    if len(lines) == 1:
        _parse_header(lines[0], source)
        raise _refuse(f"{source} ends after its header", wanted="a line per tensor")
    return lines


def _parse_header(line: str, source: str) -> tuple[str, str]:
    """Version and calibrator. The number of digits tells which rule the version follows."""
    where = f"{source}: line 1"
    match = re.fullmatch(r"TRT-([0-9]+)-(\w+)", line)
    if match is None:
        raise _refuse(
            f"{where} is {_short(line)}", wanted="a header TRT-<version number>-<calibrator>"
        )
    digits, calibrator = match.groups()
    if not re.fullmatch("[1-9](?:[0-9]{3}|[0-9]{5})", digits):
        raise _refuse(
            f"{where} has the version number {digits}",
            wanted="4 digits up to TensorRT 9 (8601 is 8.6.1), 6 from 10 on (101401 is 10.14.1)",
        )
    minor_digits = 1 if len(digits) == 4 else 2
    major, minor = digits[: -2 - minor_digits], digits[-2 - minor_digits : -2]
    if int(major) > _LAST_MAJOR:
        raise _refuse(f"{where} is of TensorRT {major}", wanted="up to TensorRT 10")
    if calibrator not in CALIBRATORS:
        raise _refuse(
            f"{where} has the unknown calibrator {calibrator!r}", wanted=_one_of_calibrators()
        )
    return f"{major}.{int(minor)}.{int(digits[-2:])}", calibrator


def _version_number(version: str) -> int:
    """TensorRT's number of a version: NV_TENSORRT_VERSION of NvInfer.h, whose rule changed."""
    if not re.fullmatch(r"[1-9][0-9]?(\.[0-9]{1,2}){2}", version):
        raise _refuse(f"TensorRT version {version!r}", wanted="three numbers such as 10.14.1")
    major, minor, patch = (int(part) for part in version.split("."))
    if major > _LAST_MAJOR:
        raise CalibrationError(
            f"TensorRT {version} reads no calibration cache",
            wanted="up to TensorRT 10",
            todo="build with Q/DQ nodes (trt-int8 build), which every version understands",
        )
    if major >= _WIDE_MAJOR:
        return major * 10000 + minor * 100 + patch
    if minor > 9:
        raise _refuse(f"TensorRT version {version!r}", wanted="a minor number of one digit")
    return major * 1000 + minor * 100 + patch


def _from_hex(digits: str) -> float:
    return float(struct.unpack(">f", int(digits, 16).to_bytes(4, "big"))[0])


def _to_hex(scale: float) -> str:
    return f"{struct.unpack('>I', struct.pack('>f', scale))[0]:x}"


def _fault(scale: float) -> str:
    """What is wrong with a scale; empty if nothing is."""
    if not math.isfinite(scale):
        return f"is {scale}"
    if math.copysign(1.0, scale) < 0:
        return f"is negative ({scale})"
    try:
        exact = _from_hex(_to_hex(scale)) == scale
    except OverflowError:
        exact = False
    return "" if exact else f"is {scale}, which is no float32"


def _one_of_calibrators() -> str:
    return f"one of {', '.join(CALIBRATORS)}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _refuse(came: str, *, wanted: str) -> CalibrationError:
    return CalibrationError(came, wanted=wanted, todo="correct it, or let TensorRT write it again")
