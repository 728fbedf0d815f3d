"""A loaded bundle: one session for GPU and CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType

from trt_int8.runtime.arrays import shape_of
from trt_int8.runtime.backend import Backend, Feeds, Outputs
from trt_int8.runtime.buckets import Buckets, buckets_of, can_pad
from trt_int8.runtime.checks import CheckedBundle
from trt_int8.runtime.device import Device
from trt_int8.runtime.fixed import Piece, any_batch, cut_rows, join_rows, run_pieces, run_sizes
from trt_int8.runtime.futures import Joined
from trt_int8.runtime.mapping import MapOptions, MapRun, Order, map_requests
from trt_int8.runtime.opening import Asked, Loaded, load_bundle
from trt_int8.runtime.options import SessionOptions
from trt_int8.runtime.padding import FeedChecker, Side, cut_outputs, pad_request, token_count
from trt_int8.runtime.plain import PlainShapes
from trt_int8.runtime.tensors import Signature, TensorInfo
from trt_int8.runtime.warm import default_shapes, example_feeds
from trt_int8.spec.build import Precision
from trt_int8.spec.manifest import Manifest

_NO_OPTIONS = SessionOptions()
_CPU_BATCH_TOKENS = 1024


class Session:
    """Runs requests; every method may be called from any thread.

    Leave it with `close` or a `with` block: requests that were taken are finished first, later ones
    are refused. Arrays that it returns are the caller's own. Arrays given to `run_async` or `map`
    must not change before their answer has come.

    A request is padded along its tokens to the next bucket, and gets the same bits whichever way it
    comes (`run`, `run_async`, `map`). On OpenVINO they do not depend on what shares its batch
    either; ONNX Runtime and TensorRT choose kernels by the size of the batch.
    """

    def __init__(self, loaded: Loaded) -> None:
        """Use `Session.open`."""
        self._checked, self._device = loaded.checked, loaded.device
        self._backend, self._signature = loaded.backend, loaded.signature
        self._buckets = buckets_of(loaded.signature)
        self._sizes = run_sizes(loaded.signature, loaded.device.kind)
        self._taken = any_batch(loaded.signature)
        self._checker = FeedChecker(self._taken, allow_device=loaded.device.kind == "cuda")
        self._pads = can_pad(loaded.signature)
        self._plain = PlainShapes(loaded.signature.inputs)

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        device: str = "auto",
        *,
        workers: int = 1,
        precision: Precision = "int8",
        options: SessionOptions = _NO_OPTIONS,
    ) -> Session:
        """Check a bundle and load it.

        Args:
            bundle: its folder.
            device: `cpu`, `cuda:N`, or `auto`: the first card that an engine fits, else the CPU.
            workers: requests that run at the same time. On a CPU they share the cores out between
                them, which gives more requests per second, each later.
            precision: `int8`, or `fp16` for the twin (which a CPU computes in float32).
            options: what most callers leave as it is.

        Raises:
            BundleError: the bundle is damaged or does not fit the device; one class per reason
                (`trt_int8.errors`). Nothing was deserialised then.
            DeviceError: there is no such device.
            MissingPackageError: what runs the model there is not installed.
            RequestError: an option is wrong.
            SessionError: what runs the model refused it.
        """
        return cls(load_bundle(Path(bundle), Asked(device, workers, precision, options)))

    def __enter__(self) -> Session:
        """The session itself."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    @property
    def signature(self) -> Signature:
        """Inputs and outputs with the sizes that run."""
        return self._signature

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Names, types and sizes of what the model reads; batches of other sizes are cut."""
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Names, types and axes of what it gives."""
        return self._signature.outputs

    @property
    def buckets(self) -> Buckets | None:
        """Lengths that requests are padded to; None if nothing may be padded."""
        return self._buckets

    @property
    def pad_values(self) -> Mapping[str, int]:
        """Per input what stands where there is no token; 0 if it is not named."""
        text = self.manifest.text
        if text is None:
            return MappingProxyType({})
        return MappingProxyType(
            {"input_ids": text.pad_token_id, "token_type_ids": text.pad_token_type_id}
        )

    @property
    def pad_side(self) -> Side:
        """Where padding goes."""
        return self.manifest.text.padding_side if self.manifest.text else "right"

    @property
    def device(self) -> Device:
        """Where it runs, and why `auto` chose that."""
        return self._device

    @property
    def backend_name(self) -> str:
        """Package and version that runs the model."""
        return self._backend.name

    @property
    def backend(self) -> Backend:
        """What runs the model; to look at, not to call."""
        return self._backend

    @property
    def workers(self) -> int:
        """Requests that run at the same time."""
        return self._backend.workers

    @property
    def manifest(self) -> Manifest:
        """The bundle's table of contents."""
        return self._checked.manifest

    @property
    def folder(self) -> Path:
        """Of the bundle."""
        return self._checked.folder

    @property
    def checked(self) -> CheckedBundle:
        """The bundle as it was checked, to read more of its files."""
        return self._checked

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known, one sentence each: why this device, what the checks found."""
        reason = (self._device.reason,) if self._device.reason else ()
        return (*reason, *self._checked.notes, *getattr(self._backend, "notes", ()))

    def run(self, feeds: Feeds) -> Outputs:
        """Run one request of any batch size.

        Args:
            feeds: every input by name, with the batch as first axis: NumPy arrays, torch tensors,
                lists of integers; on a GPU also anything with `__cuda_array_interface__`. Texts of
                one batch are padded to one length already, with 0 in the mask.

        Returns:
            Every output by name, as many rows and tokens as the request has.

        Raises:
            RequestError: it does not fit the model.
            SessionError: it failed, or the session is closed.
        """
        shapes = self._plain.of(feeds)
        if shapes in self._plain:
            return self._backend.run(feeds)
        pieces, tokens = self._prepare(feeds)
        if shapes and pieces[0].is_whole(shapes):
            self._plain.add(shapes)
        return self._finish(pieces, tokens, run_pieces(self._backend, pieces))

    def run_async(self, feeds: Feeds) -> Future[Outputs]:
        """Start one request; the future ends with what `run` returns or raises.

        Blocks while the workers' queue is full. A request that has not begun can be cancelled.
        Callbacks run on a worker: they should be short; `run` and `close` they may call, but never
        wait for another future or map. Where no worker is left for it, `result` raises.

        Raises:
            RequestError: it does not fit the model.
            SessionError: the session is closed.
        """
        pieces, tokens = self._prepare(feeds)
        futures = [self._backend.submit(each.feeds) for each in pieces]
        return Joined(futures, partial(self._finish, pieces, tokens))

    def map(
        self,
        requests: Iterable[Feeds],
        *,
        max_batch_tokens: int | None = None,
        order: Order | None = None,
        options: MapOptions | None = None,
    ) -> MapRun:
        """Run many single samples in batches of similar length; see `map_requests`.

        Args:
            requests: feeds of one sample each, without the batch axis; may be endless.
            max_batch_tokens: most samples times padded tokens of a batch; overrides `options`. If
                neither says it, 4096 on a GPU, on a CPU 1024 or the largest of its fixed shapes.
            order: of the answers: `input` (default), or `completed` as they come; overrides
                `options`.
            options: all limits.
        """
        chosen = options or MapOptions()
        if options is None and self._device.kind == "cpu":
            sizes = [longest * most for _, longest, _, most in self._sizes.ranges]
            tokens = max(sizes) if self._signature.profiles else _CPU_BATCH_TOKENS
            chosen = replace(chosen, max_batch_tokens=tokens)
        if max_batch_tokens is not None:
            chosen = replace(chosen, max_batch_tokens=max_batch_tokens)
        if order is not None:
            chosen = replace(chosen, order=order)
        return map_requests(self, requests, chosen)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Start a batch that is checked, padded and of a size that runs; outputs come as they are.

        It is what `map` calls; `run_async` is for everyone else.
        """
        self._check_fits(feeds)
        return self._backend.submit(feeds)

    def warm_up(
        self,
        shapes: Iterable[tuple[int, int]] | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> int:
        """Run made-up requests, so that the first real ones do not wait for anything.

        Args:
            shapes: (samples, tokens); None for those of the options, else every bucket with one
                sample.
            advance: called after each shape.

        Returns:
            How many shapes were run on every worker.
        """
        chosen = default_shapes(self._signature, self._buckets) if shapes is None else list(shapes)
        for samples, tokens in chosen:
            feeds = example_feeds(self._taken, samples, tokens)
            # Workers take turns; on a GPU the second run of a shape records its graph.
            for _ in range(2 * self.workers):
                self.run(feeds)
            advance()
        return len(chosen)

    def close(self) -> None:
        """Finish what was taken, then free everything; a second call does nothing."""
        self._backend.close()

    def _prepare(self, feeds: Feeds) -> tuple[list[Piece], int]:
        checked = self._checker.check(feeds)
        tokens = token_count(checked, self._signature)
        length = tokens
        if self._buckets is not None and self._pads:
            length = self._buckets.bucket(tokens)
            checked = pad_request(checked, self._signature, self.pad_values, length, self.pad_side)
        pieces = list(cut_rows(checked, length or 1, self._sizes))
        for each in pieces:
            self._check_fits(each.feeds)
        return pieces, tokens

    def _check_fits(self, feeds: Feeds) -> None:
        # What is padded goes to a length of a profile; what is not may lie between them.
        if self._signature.profiles and not self._pads:
            self._signature.profile_of({name: shape_of(array) for name, array in feeds.items()})

    def _finish(self, pieces: list[Piece], tokens: int, outputs: list[Outputs]) -> Outputs:
        padded = token_count(pieces[0].feeds, self._signature) != tokens
        given = list(zip(outputs, pieces, strict=True))
        joined = join_rows(given, self._signature, padded=padded)
        return cut_outputs(joined, self._signature, tokens, self.pad_side)
