"""Every error the toolkit raises on purpose: one base class, one message shape."""

from __future__ import annotations


class TrtInt8Error(Exception):
    """Base of all errors a user can cause or mend.

    The message is one line: what came; what was wanted; what to do.

    Attributes:
        came: what the toolkit met.
        wanted: what it needed instead.
        todo: the step that mends it.
    """

    exit_code = 1

    def __init__(self, came: str, *, wanted: str, todo: str) -> None:
        """Join the three parts to one line; spaces inside a line (of a file name) are kept."""
        self.came = came
        self.wanted = wanted
        self.todo = todo
        lines = (line.strip() for line in f"{came}; wanted {wanted}; {todo}".splitlines())
        text = " ".join(line for line in lines if line)
        super().__init__(text if text.endswith((".", "?", "!")) else f"{text}.")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without a call of `__init__`, whose arguments differ from class to class."""
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[TrtInt8Error], args: tuple[str, ...]) -> TrtInt8Error:
    return kind.__new__(kind, *args)


def first_line(error: BaseException) -> str:
    """The first line of another library's error that is not empty; its class name if none is."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


class ModelError(TrtInt8Error):
    """The model is missing, unreadable or of an architecture that is not supported."""


class CalibrationError(TrtInt8Error):
    """The calibration text is missing, unreadable or empty."""


class RangeError(TrtInt8Error):
    """A calibrated range is zero, negative, NaN or infinite, or no data reached a tensor."""


class RecipeError(TrtInt8Error):
    """The recipe file or one of its settings is wrong."""


class ShapeError(TrtInt8Error):
    """The shape profile is wrong or does not fit the model, or two arrays differ in shape."""


class TargetError(TrtInt8Error):
    """The GPU target is unknown, or the chosen TensorRT flavour cannot build for it."""


class GraphError(TrtInt8Error):
    """An ONNX graph cannot be brought to the normal form."""


class EngineError(TrtInt8Error):
    """TensorRT refused the network or failed to build it."""


class CoverageError(TrtInt8Error):
    """The evidence of what runs INT8 is missing, unknown or contradicts itself."""


class BundleError(TrtInt8Error):
    """The output folder cannot be written, is in use, or holds a damaged bundle."""


class NoBundleError(BundleError):
    """There is no folder, or one without a manifest."""


class ManifestError(BundleError):
    """The manifest is cut off, no JSON, or does not say what a manifest must say."""


class ManifestFormatError(BundleError):
    """The manifest is of a format that this version does not know, such as a newer one."""


class UnsafePathError(BundleError):
    """The manifest names a file outside its bundle, or a link leads out of it."""


class MissingFileError(BundleError):
    """A file that the manifest lists is not there, or is no file."""


class UnreadableFileError(BundleError):
    """A file of the bundle is there but cannot be read."""


class ChangedFileError(BundleError):
    """A file of the bundle is not the one that the manifest vouches for."""


class TruncatedFileError(ChangedFileError):
    """A file of the bundle is shorter than the manifest says."""


class SwappedFileError(ChangedFileError):
    """A file of the bundle has the content of another one."""


class FlavourMissingError(BundleError):
    """The TensorRT that built the bundle's engines is not installed, or cannot be loaded."""


class EngineVersionError(BundleError):
    """The installed TensorRT cannot load engines of the version that built the bundle."""


class EngineTargetError(BundleError):
    """The bundle has no engine for this card, or none of the precision asked for."""


class PluginMissingError(BundleError):
    """The engine calls a plugin that this version of the toolkit does not have."""


class PluginLibraryError(BundleError):
    """A plugin library is missing, not the one the engine was built with, or cannot be loaded."""


class DeviceError(TrtInt8Error):
    """The device is unknown, missing, or cannot run what the bundle holds."""


class RequestError(TrtInt8Error):
    """A request does not fit the model: names, types or shapes of its arrays, or its text."""


class SessionError(TrtInt8Error):
    """A session is closed, or what runs the model failed."""


class RequestCancelledError(SessionError):
    """A request was taken but not run, because the map it belongs to was cancelled."""


class ScoreError(TrtInt8Error):
    """Data to score cannot be read, results cannot be kept or continued, or a worker failed."""


class MissingPackageError(TrtInt8Error):
    """An optional package is not installed."""


class PluginError(TrtInt8Error):
    """A plugin's kernel cannot be compiled, or cannot do what its options ask for."""


class CancelledError(TrtInt8Error):
    """The user pressed Ctrl-C; nothing half-written is left."""

    exit_code = 130

    def __init__(self, what: str = "the build") -> None:
        """Say what was interrupted."""
        super().__init__(
            f"{what} was interrupted",
            wanted="it to finish",
            todo="run the same command again; nothing half-written was left behind",
        )
