"""`trt-int8 export-triton`: a bundle as a model repository of Triton Inference Server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trt_int8.errors import DeviceError
from trt_int8.runtime.triton.options import ServingBackend, TritonOptions
from trt_int8.spec.build import Precision

if TYPE_CHECKING:
    from trt_int8.runtime.triton.export import Exported


def export_triton(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")],
    out: Annotated[Path, typer.Option(metavar="REPO", help="Folder for the repository.")],
    device: Annotated[str, typer.Option(help="cuda, cuda:0,1 or cpu.")] = "cuda",
    backend: Annotated[
        str | None,
        typer.Option(
            help="Triton's backend: tensorrt or onnxruntime on cuda; python (OpenVINO in it),"
            " onnxruntime or openvino on cpu. Default: the first."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in Triton. Default: the bundle's.")] = None,
    precision: Annotated[str, typer.Option(help="int8 or fp16.")] = "int8",
    max_batch: Annotated[
        int | None, typer.Option(help="Largest batch. Default: what the profiles hold.")
    ] = None,
    instances: Annotated[int, typer.Option(help="Copies per card, or on the CPU.")] = 1,
    queue_delay_us: Annotated[
        int, typer.Option(help="Microseconds that a request may wait for others.")
    ] = 100,
    sm: Annotated[int | None, typer.Option(help="Only the engine for this SM, as 80.")] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Add a tokenizer and an ensemble that takes strings.")
    ] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Hard links in place of copies of large files.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a repository that this command wrote.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write a model repository for Triton Inference Server."""
    options = TritonOptions(
        device=device,
        backend=_backend(backend),
        name=name,
        precision=cast(Precision, precision),
        max_batch=max_batch,
        instances=instances,
        queue_delay_us=queue_delay_us,
        sm=sm,
        text=text,
        force=force,
        link=link,
    )
    from trt_int8.runtime.triton import export

    done = export.export_triton(bundle, out, options)
    (_write_json if as_json else _print)(done, options)


def _backend(given: str | None) -> ServingBackend | None:
    known = get_args(ServingBackend)
    if given is not None and given not in known:
        raise DeviceError(
            f"--backend {given!r}", wanted=f"one of {', '.join(known)}", todo="correct it"
        )
    return cast("ServingBackend | None", given)


def _write_json(done: Exported, options: TritonOptions) -> None:
    network = done.network
    body = {
        "folder": str(done.folder),
        "models": list(done.models),
        "backend": network.backend,
        "device": options.device,
        "precision": options.precision,
        "max_batch": network.max_batch,
        "lengths": list(network.lengths),
        "size_bytes": done.size_bytes,
    }
    sys.stdout.write(json.dumps(body, indent=1) + "\n")


def _print(done: Exported, options: TritonOptions) -> None:
    network = done.network
    rows = {
        "models": ", ".join(done.models),
        "clients call": done.models[-1],
        "backend": f"{network.backend} on {options.device}, {options.precision}",
        "batches": f"up to {network.max_batch}" if network.max_batch else "as the client sends",
        "lengths": ", ".join(map(str, network.lengths)) or "as they come",
        "instances": str(options.instances),
        "size": f"{done.size_bytes / 2**20:.1f} MiB",
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for what, value in rows.items():
        table.add_row(what, Text(value))
    console = Console(highlight=False)
    console.print(Text(f"wrote {done.folder}"), soft_wrap=True)
    console.print(table)
    console.print(Text(f"serve it (not run here): sh {done.folder / 'run.sh'}"), soft_wrap=True)
