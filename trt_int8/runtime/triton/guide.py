"""Files that tell people how to serve a repository: README.md, Dockerfile and run.sh."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from trt_int8.runtime.triton.network import Network
from trt_int8.spec.manifest import Manifest

# Where the container sees the repository.
_MOUNTED = "/models"
_PYTHON_PACKAGES = {"text": ("numpy", "tokenizers"), "python": ("numpy", "openvino")}


@dataclass(frozen=True)
class Guide:
    """What the texts depend on.

    Attributes:
        network: what is served.
        manifest: of the bundle it is from.
        gpu: whether it runs on a card.
        text: whether there is an ensemble that takes strings.
        plugins: plugin libraries, by path inside the repository.
    """

    network: Network
    manifest: Manifest
    gpu: bool
    text: bool
    plugins: tuple[str, ...]

    @property
    def served(self) -> str:
        """The model that clients call."""
        return f"{self.network.name}_text" if self.text else self.network.name

    @property
    def packages(self) -> tuple[str, ...]:
        """Python packages that the stock image lacks."""
        uses = {"text": self.text, "python": self.network.backend == "python"}
        wanted = [use for use, is_used in uses.items() if is_used]
        return tuple(dict.fromkeys(p for one in wanted for p in _PYTHON_PACKAGES[one]))


def guide_files(guide: Guide) -> dict[str, str]:
    """Texts by file name."""
    files = {"README.md": _readme(guide), "run.sh": _run_script(guide)}
    if guide.packages:
        files["Dockerfile"] = _dockerfile(guide)
    return files


def server_command(guide: Guide) -> str:
    """The server's own command line, inside the container."""
    # The configurations are whole; a server that completes them may turn batching on where the
    # batch is an axis like any other.
    options = (f"--model-repository={_MOUNTED}", "--disable-auto-complete-config")
    return " ".join(["tritonserver", *options, *_plugin_options(guide)])


def _plugin_options(guide: Guide) -> tuple[str, ...]:
    if not guide.plugins or guide.network.backend != "tensorrt":
        return ()
    paths = ";".join(f"{_MOUNTED}/{path}" for path in guide.plugins)
    return (shlex.quote(f"--backend-config=tensorrt,plugins={paths}"),)


def _run_script(guide: Guide) -> str:
    image = "trt-int8-triton" if guide.packages else '"$TRITON_IMAGE"'
    lines = [
        "#!/bin/sh",
        "# Serves this folder. TRITON_IMAGE: see README.md.",
        "set -eu",
        ': "${TRITON_IMAGE:?set it to an image of Triton, see README.md}"',
        'here=$(cd "$(dirname "$0")" && pwd)',
    ]
    if guide.packages:
        # From standard input: with a folder, docker would send it the models too.
        build = f'docker build --build-arg IMAGE="$TRITON_IMAGE" -t {image} -'
        lines.append(f'{build} < "$here/Dockerfile"')
    gpus = "--gpus all " if guide.gpu else ""
    lines += [
        f"exec docker run --rm {gpus}--shm-size=1g \\",
        "  -p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 -p 127.0.0.1:8002:8002 \\",
        f'  -v "$here:{_MOUNTED}:ro" {image} \\',
        f"  {server_command(guide)}",
    ]
    return "\n".join(lines) + "\n"


def _dockerfile(guide: Guide) -> str:
    return (
        "ARG IMAGE\n"
        "FROM ${IMAGE}\n"
        f"RUN pip install --no-cache-dir {' '.join(guide.packages)}\n"
        "ENV PYTHONDONTWRITEBYTECODE=1\n"
    )


def _readme(guide: Guide) -> str:
    network, manifest = guide.network, guide.manifest
    lengths = ", ".join(map(str, network.lengths)) or "as they come"
    batch = f"up to {network.max_batch}" if network.max_batch else "as the client sends them"
    lines = [
        f"# {network.name}",
        "",
        f"A Triton Inference Server model repository of the bundle {manifest.model}"
        f" (model sha256 {manifest.model_sha256[:12]}). Clients call `{guide.served}`.",
        "",
        f"- backend: {network.backend}",
        f"- batches: {batch}; only requests of equal shapes are joined",
        f"- lengths in tokens: {lengths}; pad to these, or requests rarely meet in a batch",
        "",
        "    TRITON_IMAGE=nvcr.io/nvidia/tritonserver:YY.MM-py3 sh run.sh",
        "",
        *_image_notes(guide),
        *_plugin_notes(guide),
        "",
        "`trt-int8 export-triton` wrote this folder; it did not start a server.",
    ]
    return "\n".join(lines) + "\n"


def _image_notes(guide: Guide) -> list[str]:
    if guide.network.backend == "tensorrt":
        version = guide.manifest.tensorrt_version
        return [
            f"The engines are of TensorRT {version}: take the image with exactly that version"
            " (the release notes of Triton's containers name it), and cards of the capabilities"
            " in `config.pbtxt`."
        ]
    if guide.network.backend == "onnxruntime" and guide.gpu:
        return [
            "ONNX Runtime's TensorRT provider builds the engine when the server starts: the"
            " first start is slow, and what runs INT8 is then TensorRT's choice, not the one that"
            " the bundle's `coverage.json` shows."
        ]
    return ["Any release with that backend will do."]


def _plugin_notes(guide: Guide) -> list[str]:
    if not guide.plugins or guide.network.backend != "tensorrt":
        return []
    paths = ":".join(f"{_MOUNTED}/{path}" for path in guide.plugins)
    return [
        "",
        "The engines call plugins of the libraries beside them. `run.sh` names them to the"
        " backend; for a server too old for that option:",
        "",
        f"    LD_PRELOAD={shlex.quote(paths)} tritonserver --model-repository={_MOUNTED}",
    ]
