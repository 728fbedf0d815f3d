"""Score parts on a Ray cluster: Ray Data hands them to actors that hold a session each."""

from __future__ import annotations

import contextlib
import logging
import pickle
import socket
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trt_int8 import __version__, optional
from trt_int8.calibrate.ray_cluster import LOCAL, connect, lost
from trt_int8.errors import ScoreError, TrtInt8Error
from trt_int8.runtime.score.answers import Format
from trt_int8.runtime.score.data import DataSet
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.rows import Columns, Part
from trt_int8.runtime.score.shipping import Sent, send
from trt_int8.runtime.score.work import Opener, PartResult, PartWorker

_PART, _RESULT = "part", "result"


@dataclass(frozen=True)
class Cluster:
    """Scores parts on a cluster; an `Executor`.

    A part is scored whole by one actor, with the code that also scores it without Ray, so its file
    has the same bytes wherever it was made, as long as the machines compute the same: the same
    packages, kind of processor and number of cores. Batches never hold rows of two parts.

    Data and bundle are read at the path they have here, on every machine; that they are the same
    there is checked by sha256.

    Attributes:
        address: of the cluster (`auto`, `host:port`), or `local` for one on this machine.
        actors: sessions; None for one per GPU, or without GPUs one per machine.
        ship: send the bundle through Ray's object store.
    """

    address: str
    actors: int | None = None
    ship: bool = False

    def __call__(
        self, opener: Opener, data: DataSet, parts: Iterable[Part], form: Format
    ) -> Generator[PartResult, None, None]:
        """Results in the order in which they are ready.

        Raises:
            MissingPackageError: Ray, or a package that Ray Data needs, is not installed.
            ScoreError: the cluster cannot be reached, a machine lacks the bundle or the data or has
                others, or an actor was lost for good.
        """
        ray = optional.load("ray")
        for needed in ("pandas", "pyarrow"):
            optional.load(needed)
        if self.address.startswith("ray://"):
            raise ScoreError(
                f"{self.address!r} is the address of a Ray client",
                wanted="a machine of the cluster, which reads the data and keeps the results",
                todo="run this command there with --ray auto",
            )
        connect(ray, self.address, ScoreError)
        try:
            pool = size_pool(ray.nodes(), _device(opener), self.actors)
            sent = send(_sharing(opener, pool), ray.put if self.ship else None)
            job = Job(sent, data.columns, form, __version__)
            items = [{_PART: pickle.dumps(part)} for part in parts]
            yield from _stream(items, job, pool)
        finally:
            if self.address == LOCAL:
                ray.shutdown()


@dataclass(frozen=True)
class Pool:
    """Actors, and what Ray sets aside for each.

    Attributes:
        size: actors.
        cpus: of each.
        gpus: of each.
        per_machine: actors that share the cores of a machine; 1 if they run on GPUs.
    """

    size: int
    cpus: float
    gpus: float
    per_machine: int = 1


def size_pool(nodes: Iterable[Mapping[str, Any]], device: str, actors: int | None) -> Pool:
    """How many actors, and what each needs.

    On GPUs each actor has one. Without, each has a machine of its own, for a session uses all
    cores; more actors than machines share the cores, which `--workers` does better.

    Raises:
        ScoreError: a GPU is asked for, and the cluster has none.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = int(sum(each.get("GPU", 0) for each in alive))
    if device.startswith("cuda") and not gpus:
        raise ScoreError(
            "the cluster has no GPU", wanted="one, for --device cuda", todo="use --device auto"
        )
    if gpus and device != "cpu":
        return Pool(actors or gpus, 1, 1)
    # A head node may have been given no CPUs, so that nothing runs on it.
    cores = [int(each["CPU"]) for each in alive if each.get("CPU", 0) >= 1] or [1]
    size = actors or len(cores)
    per_machine = -(-size // len(cores))
    return Pool(size, max(1, min(cores) // per_machine), 0, per_machine)


@dataclass(frozen=True)
class Job:
    """What every actor gets.

    Attributes:
        sent: how to open the model there.
        columns: where the texts are in files with named columns.
        form: of the parts.
        version: of this package here.
    """

    sent: Sent
    columns: Columns
    form: Format
    version: str


class PartActor:
    """Scores parts on one machine; Ray Data makes it and calls it with batches of one part."""

    def __init__(self, job: Job) -> None:
        """Load nothing yet: an error of ours is to arrive as it is, which only results do."""
        self._job = job
        self._worker: PartWorker | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Score the part; the result is a `PartResult` or an error, pickled."""
        result: PartResult | TrtInt8Error
        try:
            result = self._ready().work(pickle.loads(batch[_PART][0]))
        except TrtInt8Error as error:
            came = f"on node {socket.gethostname()}: {error.came}"
            result = ScoreError(came, wanted=error.wanted, todo=error.todo)
        found = np.empty(1, object)
        found[0] = pickle.dumps(result)
        return {_RESULT: found}

    def _ready(self) -> PartWorker:
        if self._worker is None:
            job = self._job
            if job.version != __version__:
                raise ScoreError(
                    f"it has trt_int8 {__version__}",
                    wanted=f"{job.version}, as on the machine that keeps the results",
                    todo="install the same version on every machine of the cluster",
                )
            self._worker = PartWorker(job.sent.opener(), job.columns, job.form)
        return self._worker


def _stream(items: list[dict[str, bytes]], job: Job, pool: Pool) -> Iterator[PartResult]:
    data = optional.load("ray.data")
    with _quiet(data):
        try:
            # A block each: a part goes to the first actor that is free, and comes back alone.
            found = data.from_items(items, override_num_blocks=len(items)).map_batches(
                PartActor,
                fn_constructor_args=(job,),
                batch_size=1,
                compute=data.ActorPoolStrategy(size=pool.size),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
            )
            for row in found.iter_rows():
                result = pickle.loads(row[_RESULT])
                if isinstance(result, TrtInt8Error):
                    raise result
                yield result
        except TrtInt8Error:
            raise
        except Exception as error:  # Ray Data raises RayError, ValueError and others
            raise lost(error, ScoreError) from error


@contextlib.contextmanager
def _quiet(data: Any) -> Iterator[None]:
    """Without Ray Data's bars and log lines; its log files stay."""
    context, logger = data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])


def _sharing(opener: Opener, pool: Pool) -> Opener:
    """The opener for actors that share machines: a session alone takes all cores."""
    if isinstance(opener, BundleScorer):
        return replace(opener, sharing=pool.per_machine)
    return opener


def _device(opener: Opener) -> str:
    return opener.device if isinstance(opener, BundleScorer) else "cpu"
