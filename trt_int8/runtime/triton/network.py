"""The network of a bundle as Triton serves it: batch, lengths, and shapes to prepare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from trt_int8.errors import ModelError, RequestError
from trt_int8.runtime.buckets import token_axes_of
from trt_int8.runtime.tensors import Shape, Signature, TensorInfo
from trt_int8.runtime.triton.options import ServingBackend, TritonOptions, model_name
from trt_int8.spec.manifest import Manifest
from trt_int8.spec.shapes import InputShape, Profile

# Names of NumPy's types in a model configuration: https://docs.nvidia.com/deeplearning/
# triton-inference-server/user-guide/docs/user_guide/model_configuration.html#datatypes
_TYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
}


# Which batches of a profile to take.
_Batches = Callable[[InputShape], tuple[int, ...]]


@dataclass(frozen=True)
class Sample:
    """One shape that requests will have.

    Attributes:
        batch: number of samples, 1 where Triton does not batch.
        dims: per input its axes as `config.pbtxt` counts them.
    """

    batch: int
    dims: Mapping[str, Shape]


@dataclass(frozen=True)
class Network:
    """What of a bundle goes into `config.pbtxt`.

    Attributes:
        name: the model's name in Triton.
        backend: what runs it.
        signature: inputs, outputs and profiles.
        lengths: lengths in tokens that texts are padded to, ascending; empty if the model has no
            token axis, or no mask to say what is padding.
        max_batch: largest batch; 0 if Triton must not join requests, and then the batch is an axis
            like any other.
    """

    name: str
    backend: ServingBackend
    signature: Signature
    lengths: tuple[int, ...]
    max_batch: int

    def dims(self, info: TensorInfo) -> tuple[int, ...]:
        """Axes of a tensor as `config.pbtxt` counts them: -1 if dynamic, no batch axis if batched.

        Empty for a tensor of one number per sample.
        """
        axes = info.axes[1:] if self.max_batch else info.axes
        return tuple(axis if isinstance(axis, int) else -1 for axis in axes)

    def has_tokens(self, info: TensorInfo) -> bool:
        """Whether an axis of an output counts the tokens of a text."""
        return bool(token_axes_of(info, self.signature))

    def graph_samples(self) -> tuple[Sample, ...]:
        """Shapes worth a CUDA graph: each length alone and in a batch of a profile's best size."""
        return self._samples(lambda shape: (shape.min[0], shape.opt[0]))

    def warm_samples(self) -> tuple[Sample, ...]:
        """Shapes to run once before the first request: each length alone and in a full batch."""
        return self._samples(lambda shape: (shape.min[0], shape.max[0]))

    def _samples(self, batches: _Batches) -> tuple[Sample, ...]:
        found: dict[tuple[object, ...], Sample] = {}
        for profile in self.signature.profiles:
            for length in self._lengths_in(profile):
                for batch in sorted({min(b, self.max_batch) or b for b in batches(profile[0])}):
                    if batch >= profile[0].min[0]:
                        sample = self._sample(profile, batch, length)
                        found.setdefault((sample.batch, *sample.dims.items()), sample)
        return tuple(found.values())

    def _sample(self, profile: Profile, batch: int, length: int | None) -> Sample:
        dims = {}
        for shape in profile:
            sizes = list(shape.opt)
            axis = self.signature.token_axes.get(shape.name)
            if axis is not None and length is not None:
                sizes[axis] = length
            dims[shape.name] = tuple(sizes[1:]) if self.max_batch else (batch, *sizes[1:])
        return Sample(batch if self.max_batch else 1, dims)

    def _lengths_in(self, profile: Profile) -> Iterator[int | None]:
        """Lengths that a profile holds; None, for its best sizes, if nothing is padded."""
        if not self.lengths:
            yield None
            return
        ranges = [
            (shape.min[axis], shape.max[axis])
            for shape in profile
            if (axis := self.signature.token_axes.get(shape.name)) is not None
        ]
        for length in self.lengths:
            if all(low <= length <= high for low, high in ranges):
                yield length


def describe_network(
    manifest: Manifest, signature: Signature, lengths: tuple[int, ...], options: TritonOptions
) -> Network:
    """Decide the batch and the name.

    Args:
        manifest: of the bundle.
        signature: of the model that is served.
        lengths: of the token axis, ascending.
        options: what the user asked for.

    Raises:
        ModelError: a tensor has a type that Triton does not know.
        RequestError: `max_batch` is above what the profiles hold, or there is no batch to choose.
    """
    for info in (*signature.inputs, *signature.outputs):
        data_type(info)
    return Network(
        name=model_name(options.name, manifest.model),
        backend=options.serving_backend,
        signature=signature,
        lengths=lengths,
        max_batch=_max_batch(signature, options),
    )


def data_type(info: TensorInfo) -> str:
    """The name of a tensor's type in `config.pbtxt`.

    Raises:
        ModelError: Triton has no such type.
    """
    if info.dtype not in _TYPES:
        raise ModelError(
            f"tensor {info.name!r} is {info.dtype}",
            wanted=f"one of {', '.join(_TYPES)}",
            todo="export the model with such inputs and outputs",
        )
    return f"TYPE_{_TYPES[info.dtype]}"


def _max_batch(signature: Signature, options: TritonOptions) -> int:
    reason = _why_unbatched(signature, options.serving_backend)
    if reason is not None:
        if options.max_batch is not None:
            raise RequestError(
                f"--max-batch {options.max_batch}",
                wanted=f"none, for {reason}",
                todo="leave it out; requests then carry the batch axis themselves",
            )
        return 0
    largest = min(info.largest[0] for info in signature.inputs)
    if options.max_batch is not None and options.max_batch > largest:
        raise RequestError(
            f"--max-batch {options.max_batch}",
            wanted=f"at most {largest}, the largest batch of the bundle's profiles",
            todo="choose a smaller one, or build the bundle with a larger batch in --shapes",
        )
    return options.max_batch or largest


def _why_unbatched(signature: Signature, backend: ServingBackend) -> str | None:
    """Why Triton must not join requests to batches; None if it may."""
    if backend == "openvino":
        # Its README: a batch below max_batch_size is an error, or is padded to it.
        return "Triton's OpenVINO backend runs batches of one size only"
    name = signature.batch_axis_name
    for info in (*signature.inputs, *signature.outputs):
        if name is None or not info.axes or info.axes[0] != name:
            return f"the first axis of {info.name!r} is not a batch of any size"
    return None
