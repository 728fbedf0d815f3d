"""Which engine of a bundle a card can run, told from the manifest alone.

NVIDIA's rules, as its pages state them:

- TensorRT: "engines are compatible only with the version of TensorRT used to build them", with
  major, minor, patch and build alike, unless they were built version-compatible, which this toolkit
  does not do; and they are "not portable across different GPU architectures" without hardware
  compatibility, which it does not ask for either (TensorRT 11.1, "Engine Compatibility" and
  "Support Matrix").
- TensorRT-RTX: "engines are not compatible between different releases" ("Engine Compatibility").
  Its default engines run on several compute capabilities, 8.0, 8.6, 8.9, 12.0 and later ("CPU-Only
  AOT"); ours name exactly one each, and nothing says that such an engine runs elsewhere. So an
  engine for SM80 is not taken for a card of SM86.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trt_int8 import optional
from trt_int8.engine.bundle_files import COPY_AGAIN, read_unlisted
from trt_int8.engine.flavour import MODULE_OF
from trt_int8.engine.plan_text import KNOWN_VERSIONS, read_header
from trt_int8.errors import (
    CoverageError,
    EngineTargetError,
    EngineVersionError,
    FlavourMissingError,
    ManifestError,
    MissingPackageError,
    PluginMissingError,
    first_line,
)
from trt_int8.plugins.compile import source_sha256
from trt_int8.plugins.signatures import PLUGIN_VERSION, signatures
from trt_int8.plugins.sources import source_of
from trt_int8.runtime.gpu.cards import Card
from trt_int8.spec.build import Flavour, Precision
from trt_int8.spec.manifest import EngineEntry, Manifest
from trt_int8.spec.targets import RTX_SMS

InstalledVersion = Callable[[Flavour], str]

_PRODUCT_OF = {Flavour.RTX: "TensorRT-RTX", Flavour.TENSORRT: "TensorRT"}
_HEADER_BYTES = 64
_PACKAGE_OF = {Flavour.RTX: "tensorrt-rtx-cu13", Flavour.TENSORRT: "tensorrt"}


def installed_version(flavour: Flavour) -> str:
    """Version of the installed TensorRT of a flavour.

    Raises:
        MissingPackageError: it is not installed.
        OSError, ImportError, RuntimeError: its libraries cannot be loaded.
        AttributeError: what is found is a folder of that name, not the package.
    """
    return str(optional.load(MODULE_OF[flavour]).__version__)


def fitting_engine(
    manifest: Manifest,
    card: Card,
    precision: Precision = "int8",
    installed: InstalledVersion = installed_version,
) -> EngineEntry:
    """The engine of a bundle for a card; no file is opened.

    Args:
        manifest: of the bundle.
        card: where it is to run.
        precision: `int8`, or `fp16` for its twin.
        installed: asked for the version of the TensorRT at hand.

    Raises:
        EngineTargetError: no engine is for this card, or none of this precision.
        FlavourMissingError: the bundle's TensorRT is not installed, or cannot be loaded.
        EngineVersionError: another version of it is installed than the one that built the engines.
        PluginMissingError: the engine calls a plugin that this version does not have.
    """
    engine = _for_card(manifest, card, precision)
    _check_version(manifest, installed)
    if precision == "int8" and manifest.flavour is Flavour.TENSORRT:
        _check_plugins(manifest)
    return engine


def fit_notes(manifest: Manifest, engine: EngineEntry) -> tuple[str, ...]:
    """What does not forbid to run an engine, but should be known."""
    notes = []
    if engine.sm is None:
        notes.append(
            f"the bundle does not say for which card {engine.path!r} was built; TensorRT itself"
            " refuses another one"
        )
    if engine.precision == "int8" and manifest.flavour is Flavour.TENSORRT:
        notes += _changed_plugins(manifest)
    return tuple(notes)


def check_header(folder: Path, manifest: Manifest, engine: EngineEntry) -> None:
    """Compare the manifest with what a TensorRT-RTX engine says of itself in its first bytes.

    The hash only says that the file is the one that was listed; a manifest whose SM or version was
    edited vouches for an engine that cannot run. Done for the versions whose header is known.

    Raises:
        ManifestError: they contradict each other.
    """
    known = {".".join(map(str, version)) for version in KNOWN_VERSIONS}
    if manifest.flavour is not Flavour.RTX or manifest.tensorrt_version not in known:
        return
    header = read_unlisted(folder, engine.path, _HEADER_BYTES)
    try:
        version, sms = read_header(header, folder / engine.path)
    except CoverageError as error:
        raise _contradiction(folder, manifest, engine, error.came) from error
    found = ".".join(map(str, version))
    if sms != (engine.sm,) or found != manifest.tensorrt_version:
        listed = ", ".join(f"SM{sm}" for sm in sms) or "no SM"
        says = f"the engine itself says {listed}, TensorRT-RTX {found}"
        raise _contradiction(folder, manifest, engine, says)


def _contradiction(
    folder: Path, manifest: Manifest, engine: EngineEntry, says: str
) -> ManifestError:
    return ManifestError(
        f"the manifest of {str(folder)!r} says that {engine.path!r} is for SM{engine.sm}, of"
        f" TensorRT-RTX {manifest.tensorrt_version}, but {says}",
        wanted="a manifest as the build wrote it",
        todo=COPY_AGAIN,
    )


def rebuild_command(manifest: Manifest, sm: int) -> str | None:
    """The command that builds the bundle's targets and one more; None if no flavour here can."""
    if manifest.flavour is Flavour.TENSORRT:
        return "trt-int8 build --model MODEL --flavour tensorrt"
    if sm not in RTX_SMS:
        return None
    known = {engine.sm for engine in manifest.engines if engine.sm is not None}
    targets = ",".join(f"sm{each}" for each in sorted(known | {sm}))
    return f"trt-int8 build --model MODEL --flavour rtx --target {targets}"


def _for_card(manifest: Manifest, card: Card, precision: Precision) -> EngineEntry:
    named = f"card cuda:{card.index} ({card.name}) is SM{card.sm}"
    engines = [engine for engine in manifest.engines if engine.precision == precision]
    if not engines:
        raise EngineTargetError(
            f"the bundle of {manifest.model!r} has no {precision} engine",
            wanted=f"one, for {named.removeprefix('card ')}",
            todo="pass another precision, or --device cpu, or build the bundle again",
        )
    for engine in sorted(engines, key=lambda each: each.sm is None):
        if engine.sm in (card.sm, None):
            return engine
    known = ", ".join(f"SM{engine.sm}" for engine in engines)
    raise EngineTargetError(
        f"{named}, and the {precision} engines of this bundle are for {known}",
        wanted=f"an engine for SM{card.sm} (each runs on its own SM only)",
        todo=_target_mend(manifest, card),
    )


def _target_mend(manifest: Manifest, card: Card) -> str:
    command = rebuild_command(manifest, card.sm)
    if command is None:
        return (
            f"TensorRT-RTX builds none for SM{card.sm}: on the machine with that card run: pip"
            " install 'trt-int8[tensorrt]' and trt-int8 build --model MODEL --flavour tensorrt;"
            " or pass --device cpu"
        )
    where = "on the machine with that card " if manifest.flavour is Flavour.TENSORRT else ""
    return f"{where}run: {command}; or pass --device cpu"


def _check_version(manifest: Manifest, installed: InstalledVersion) -> None:
    product, package = _PRODUCT_OF[manifest.flavour], _PACKAGE_OF[manifest.flavour]
    built = manifest.tensorrt_version
    install = f"run: pip install '{package}=={built}'"
    try:
        found = installed(manifest.flavour)
    except (MissingPackageError, ImportError, OSError, RuntimeError, AttributeError) as error:
        is_missing = isinstance(error, MissingPackageError)
        came = "is not installed" if is_missing else f"cannot be loaded ({first_line(error)})"
        raise FlavourMissingError(
            f"{product} {came}",
            wanted=f"{product} {built}, which built the engines of this bundle",
            todo=f"{install}; or pass --device cpu",
        ) from error
    if found != built:
        raise EngineVersionError(
            f"{product} {found} is installed, and the engines of this bundle were built by {built}",
            wanted="the same version: engines are bound to it",
            todo=f"{install}; or build the bundle again with {found}",
        )


def _check_plugins(manifest: Manifest) -> None:
    """Refuse plugins that cannot be registered: TensorRT's own message would not name the mend."""
    known = {signature.plugin_id for signature in signatures()}
    for entry in manifest.plugins:
        if entry.id in known and entry.version == PLUGIN_VERSION:
            continue
        builder = manifest.packages.get("trt-int8", "an unknown version")
        has = f"version {PLUGIN_VERSION}" if entry.id in known else "none of that name"
        raise PluginMissingError(
            f"{entry.nodes} nodes of the INT8 engine call the plugin {entry.id!r} of version"
            f" {entry.version}, and this trt-int8 has {has}",
            wanted=f"trt-int8 {builder}, which built the bundle",
            todo="install that version, or build the bundle again, or ask for the precision fp16",
        )


def _changed_plugins(manifest: Manifest) -> list[str]:
    """Plugins whose source is not the one the engine was built with.

    No reason to refuse: our builds prefer ahead-of-time plugins, so the engine holds the kernels it
    was tuned and judged with, and never asks for the source. Only where TensorRT falls back to
    running a plugin from Python would this version's kernel run.
    """
    sources = {one.plugin_id: source_of(one) for one in signatures()}
    changed = [
        entry.id
        for entry in manifest.plugins
        if entry.id in sources and source_sha256(sources[entry.id]) != entry.source_sha256
    ]
    if not changed:
        return []
    return [
        f"the kernels of {', '.join(changed)} have changed since this bundle was built; the engine"
        " runs the old ones, which it holds"
    ]
