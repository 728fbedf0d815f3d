"""Share calibration out to the processes and machines of a Ray cluster.

The statistics of shards merge exactly, so the result is that of one process, bit for bit, as long
as every machine computes the same activations: the same packages, the same kind of CPU, and the
same number of threads per shard (which is set here).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from trt_int8 import __version__, optional
from trt_int8.calibrate.collector import NumberedBatches, Statistics, merge_statistics
from trt_int8.calibrate.ray_cluster import LOCAL, connect, lost
from trt_int8.calibrate.statistics import Needs
from trt_int8.errors import CalibrationError, TrtInt8Error

# Shards per worker: enough for a slow machine to get fewer, and for progress to be seen.
_SHARDS_PER_WORKER = 4


class Source(Protocol):
    """Tensors of a model; it can be pickled."""

    def collect(
        self, batches: NumberedBatches, needs: Needs, advance: Callable[[], None]
    ) -> Statistics:
        """Run the float model over the batches."""


def collect_with_ray(
    address: str,
    source: Source,
    batches: NumberedBatches,
    needs: Needs,
    advance: Callable[[float], None],
) -> Statistics:
    """Collect statistics on a Ray cluster.

    Args:
        address: of the cluster (`auto`, `host:port`), or `local` to start one
            on this machine for the time of the call.
        source: what to run; it is sent to the workers.
        batches: (number in the data set, arrays).
        needs: which statistics.
        advance: called with the number of batches newly done.

    Returns:
        The same as `source.collect(batches, needs, …)`.

    Raises:
        MissingPackageError: Ray is not installed.
        CalibrationError: the cluster cannot be reached, lost its workers, or has another version
            of this package.
        RangeError: a tensor holds NaN or infinity.
    """
    ray = optional.load("ray")
    connect(ray, address, CalibrationError)
    try:
        threads = torch.get_num_threads()
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        shards = list(split_shards(batches, workers * _SHARDS_PER_WORKER))
        # A machine with fewer cores than threads would never get a shard.
        task = ray.remote(num_cpus=min(threads, _cores(ray)))(collect_shard)
        shared = ray.put(source)
        waiting = {task.remote(shared, s, needs, threads, __version__): len(s) for s in shards}
        statistics: Statistics = {}
        while waiting:
            done, _ = ray.wait(list(waiting))
            merge_statistics(statistics, _result(ray, done[0]))
            advance(waiting.pop(done[0]))
        return statistics
    finally:
        if address == LOCAL:
            ray.shutdown()


def split_shards(batches: NumberedBatches, shards: int) -> Iterator[NumberedBatches]:
    """Split into at most `shards` runs of neighbours, none empty, sizes differing by one."""
    shards = min(shards, len(batches))
    start = 0
    for number in range(shards):
        size = (len(batches) - start) // (shards - number)
        yield batches[start : start + size]
        start += size


def collect_shard(
    source: Source, batches: NumberedBatches, needs: Needs, threads: int, version: str
) -> Statistics:
    """What one worker does.

    Raises:
        CalibrationError: this machine has another version of the package than the caller.
    """
    if version != __version__:
        raise CalibrationError(
            f"a worker has trt_int8 {__version__}",
            wanted=f"{version}, as on the machine that calibrates",
            todo="install the same version on every machine of the cluster",
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return source.collect(batches, needs, lambda: None)
    finally:
        torch.set_num_threads(before)


def _cores(ray: Any) -> int:
    return max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])


def _result(ray: Any, reference: Any) -> Statistics:
    try:
        found: Statistics = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TrtInt8Error):
            raise error.cause from error
        raise lost(error, CalibrationError) from error
    except ray.exceptions.RayError as error:
        raise lost(error, CalibrationError) from error
    return found
