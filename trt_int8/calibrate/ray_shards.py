"""Share calibration out to the processes and machines of a Ray cluster.

The statistics of shards merge exactly, so the result is that of one process, bit for bit, as long
as every machine computes the same activations: the same packages, the same kind of CPU, and the
same number of threads per shard (which is set here).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from trt_int8 import __version__, optional
from trt_int8.calibrate.collector import NumberedBatches, Statistics, merge_statistics
from trt_int8.calibrate.statistics import Needs
from trt_int8.errors import CalibrationError, TrtInt8Error, first_line

LOCAL = "local"
# Shards per worker: enough for a slow machine to get fewer, and for progress to be seen.
_SHARDS_PER_WORKER = 4
_ANSWER_SECONDS = 10.0


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
    _connect(ray, address)
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


def _connect(ray: Any, address: str) -> None:
    # CRITICAL: an error of ours is raised once, so Ray need not log those of the other shards.
    options = {"log_to_driver": False, "logging_level": "CRITICAL", "ignore_reinit_error": True}
    try:
        if address == LOCAL:
            # Named, for without an address Ray joins whatever runs on this machine.
            ray.init(address=LOCAL, include_dashboard=False, **options)
        else:
            _knock(address)
            ray.init(address=address, **options)
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and others
        raise CalibrationError(
            f"no Ray cluster at {address!r} ({first_line(error)})",
            wanted="a running cluster, or --ray local",
            todo="start one with `ray start --head`, or leave --ray out",
        ) from error


def _knock(address: str) -> None:
    """Ray itself tries for more than ten minutes to reach a machine that does not answer."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()


def _cores(ray: Any) -> int:
    return max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])


def _result(ray: Any, reference: Any) -> Statistics:
    try:
        found: Statistics = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, TrtInt8Error):
            raise error.cause from error
        raise _lost(error) from error
    except ray.exceptions.RayError as error:
        raise _lost(error) from error
    return found


def _lost(error: Exception) -> CalibrationError:
    last = str(error).strip().splitlines()[-1:]
    return CalibrationError(
        f"a Ray worker failed ({last[0].strip() if last else type(error).__name__})",
        wanted="workers with the same packages and enough memory",
        todo="look at the cluster's logs, or leave --ray out",
    )
