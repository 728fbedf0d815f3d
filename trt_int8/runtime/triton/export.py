"""Write a Triton model repository from a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from trt_int8.engine.bundle import staging
from trt_int8.engine.bundle_files import check_file
from trt_int8.engine.manifest_reader import load_manifest
from trt_int8.errors import BundleError, EngineTargetError, RequestError
from trt_int8.graph.plugin_variants import inline_plugins
from trt_int8.runtime.buckets import buckets_of
from trt_int8.runtime.checks import model_name
from trt_int8.runtime.libraries import read_library
from trt_int8.runtime.tensors import read_signature
from trt_int8.runtime.triton import models
from trt_int8.runtime.triton.guide import Guide, guide_files
from trt_int8.runtime.triton.network import Network, describe_network
from trt_int8.runtime.triton.network_config import LABELS_NAME, MODEL_ONNX, network_config
from trt_int8.runtime.triton.options import TritonOptions
from trt_int8.runtime.triton.pbtxt import Message, write_text
from trt_int8.runtime.triton.place import check_place, holds_repository, write_marker
from trt_int8.runtime.triton.text_config import (
    TextService,
    ensemble_config,
    logits_output,
    needs_scores,
    scores_config,
    scores_settings,
    text_service,
    tokenizer_config,
    tokenizer_settings,
)
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import Manifest
from trt_int8.spec.text import TOKENIZER_FOLDER

_VERSION = "1"
_FAST_TOKENIZER = "tokenizer.json"
# A file's content, or where to copy it from.
_Contents = dict[str, str | bytes | Path]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: the repository.
        models: names of its models, the one that clients call last.
        network: what is served.
        size_bytes: of all files together.
    """

    folder: Path
    models: tuple[str, ...]
    network: Network
    size_bytes: int


def export_triton(bundle: Path, out: Path, options: TritonOptions) -> Exported:
    """Write a model repository; it appears whole or not at all.

    Only files that the manifest lists are used, and each is checked against its sha256.

    Args:
        bundle: folder of the bundle.
        out: folder for the repository; new, empty, or one written by this function.
        options: what to serve, and how.

    Raises:
        BundleError: the bundle is damaged, or `out` cannot take the repository.
        EngineTargetError: no engine of the bundle can be served so.
        RequestError: an option does not fit the bundle.
    """
    check_place(out, bundle, force=options.force)
    manifest = load_manifest(bundle)
    plans = _plans(manifest, options)
    model = bundle / _checked(bundle, manifest, model_name(options.precision))
    signature = read_signature(model, manifest.profiles)
    buckets = buckets_of(signature)
    lengths = buckets.lengths if buckets is not None else ()
    network = describe_network(manifest, signature, lengths, options)
    service = text_service(network, manifest.text) if options.text else None
    contents = _network_files(bundle, manifest, network, options, plans)
    names = [network.name]
    if service is not None:
        contents |= _text_files(bundle, manifest, service, options)
        names = sorted({Path(name).parts[0] for name in contents} - {service.ensemble_name})
        names.append(service.ensemble_name)
    plugins = tuple(name for name in contents if Path(name).name in manifest.plugin_libraries)
    guide = Guide(network, manifest, options.kind == "cuda", service is not None, plugins)
    with staging(out, holds=holds_repository) as folder:
        _write(folder, contents | guide_files(guide), link=options.link)
        files = write_marker(folder, manifest.model, manifest.model_sha256)
        _check_copies(contents, {n: e.sha256 for n, e in files.items()}, bundle, manifest)
    size = sum(entry.size_bytes for entry in files.values())
    return Exported(out, tuple(names), network, size)


def _plans(manifest: Manifest, options: TritonOptions) -> dict[int | None, str]:
    """Paths of the engines in the bundle, by SM."""
    if options.serving_backend != "tensorrt":
        if options.sm is not None:
            raise RequestError(
                f"--sm {options.sm} with the backend {options.serving_backend}",
                wanted="it only for engines",
                todo="leave it out",
            )
        return {}
    if manifest.flavour is Flavour.RTX:
        raise EngineTargetError(
            "the bundle's engines are of TensorRT-RTX, which Triton's TensorRT backend cannot load",
            wanted="engines of the flavour tensorrt",
            todo="build with --flavour tensorrt on the card, or pass --backend onnxruntime, which"
            " gives the Q/DQ graph to ONNX Runtime's TensorRT provider",
        )
    fitting = [e for e in manifest.engines if e.precision == options.precision]
    chosen = [e for e in fitting if options.sm is None or e.sm == options.sm]
    if not chosen:
        known = sorted({str(e.sm or "of the card that built it") for e in fitting})
        raise EngineTargetError(
            f"the bundle has no {options.precision} engine"
            + (f" for SM {options.sm}" if options.sm is not None else ""),
            wanted=f"one of SM {', '.join(known)}" if known else "at least one",
            todo="choose another --sm or --precision, or build for that card",
        )
    return {engine.sm: engine.path for engine in chosen}


def _network_files(
    bundle: Path,
    manifest: Manifest,
    network: Network,
    options: TritonOptions,
    plans: Mapping[int | None, str],
) -> _Contents:
    folder, version = network.name, f"{network.name}/{_VERSION}"
    plan_names = {sm: "model.plan" if sm is None else f"model_sm{sm}.plan" for sm in plans}
    labelled = _labelled_output(network, manifest)
    config = network_config(network, options, plans=plan_names, labelled=labelled)
    files: _Contents = {f"{folder}/config.pbtxt": write_text(config)}
    if labelled is not None and manifest.text is not None:
        files[f"{folder}/{LABELS_NAME}"] = "".join(
            f"{' '.join(label.split())}\n" for label in manifest.text.labels
        )
    for sm, path in plans.items():
        files[f"{version}/{plan_names[sm]}"] = bundle / _checked(bundle, manifest, path)
    if plans:
        for name in manifest.plugin_libraries:
            files[f"{version}/{name}"] = read_library(bundle, manifest, name)
        return files
    files[f"{version}/{MODEL_ONNX}"] = _plain_model(bundle / model_name(options.precision))
    if network.backend == "python":
        settings = {
            "inputs": [info.name for info in network.signature.inputs],
            "outputs": [info.name for info in network.signature.outputs],
            "batched": bool(network.max_batch),
        }
        files |= _python_files(version, "network", settings)
    return files


def _text_files(
    bundle: Path, manifest: Manifest, service: TextService, options: TritonOptions
) -> _Contents:
    tokenizer = service.tokenizer_name
    files = _model(tokenizer, tokenizer_config(service, options))
    files |= _python_files(f"{tokenizer}/{_VERSION}", "tokenizer", tokenizer_settings(service))
    source = f"{TOKENIZER_FOLDER}/{_FAST_TOKENIZER}"
    if source not in manifest.files:
        raise RequestError(
            f"--text for a bundle without {source}",
            wanted="a tokenizer that the library `tokenizers` reads",
            todo="build the bundle again from a model with a fast tokenizer",
        )
    files[f"{tokenizer}/{_VERSION}/{source}"] = bundle / _checked(bundle, manifest, source)
    if needs_scores(service):
        scores = service.scores_name
        files |= _model(scores, scores_config(service, options))
        files |= _python_files(f"{scores}/{_VERSION}", "scores", scores_settings(service))
    files |= _model(service.ensemble_name, ensemble_config(service))
    # Triton asks for a version folder of an ensemble too; git and archives drop empty ones.
    files[f"{service.ensemble_name}/{_VERSION}/.keep"] = ""
    return files


def _model(name: str, config: Message) -> _Contents:
    return {f"{name}/config.pbtxt": write_text(config)}


def _python_files(version: str, source: str, settings: Mapping[str, Any]) -> _Contents:
    code = Path(models.__file__).with_name(f"{source}.py")
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    return {f"{version}/model.py": code.read_bytes(), f"{version}/settings.json": f"{text}\n"}


def _plain_model(path: Path) -> bytes | Path:
    """The graph without plugin functions, which only this package's engines know."""
    model = onnx.load(str(path))
    plain = inline_plugins(model)
    return path if plain is model else plain.SerializeToString()


def _labelled_output(network: Network, manifest: Manifest) -> str | None:
    """The output whose last axis the manifest has names for."""
    logits = logits_output(network, manifest.text)
    if logits is None or manifest.text is None:
        return None
    fits = manifest.text.labels and logits.axes[-1:] == (len(manifest.text.labels),)
    return logits.name if fits else None


def _checked(bundle: Path, manifest: Manifest, name: str) -> str:
    check_file(bundle, name, manifest.files)
    return name


def _write(folder: Path, contents: Mapping[str, str | bytes | Path], *, link: bool) -> None:
    for name, content in contents.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            _copy(content, place, link=link)
        else:
            place.write_bytes(content.encode() if isinstance(content, str) else content)
    for script in folder.glob("*.sh"):
        script.chmod(0o755)


def _copy(source: Path, place: Path, *, link: bool) -> None:
    if link:
        try:
            place.hardlink_to(source)
        except OSError:
            pass  # another file system, or one without links
        else:
            return
    shutil.copyfile(source, place)


def _check_copies(
    contents: _Contents, written: Mapping[str, str], bundle: Path, manifest: Manifest
) -> None:
    """Refuse a file of the bundle that was replaced between its check and its copy."""
    for name, content in contents.items():
        if isinstance(content, Path):
            source = content.relative_to(bundle).as_posix()
            if written[name] != manifest.files[source].sha256:
                raise BundleError(
                    f"file {source!r} of bundle {str(bundle)!r} was changed while it was copied",
                    wanted=f"sha256 {manifest.files[source].sha256[:12]}…",
                    todo="run the command again, once nothing writes to the bundle",
                )
