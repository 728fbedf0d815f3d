"""Strings in, answers out: the models around the network, and the ensemble that joins them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from trt_int8.errors import RequestError
from trt_int8.runtime.tensors import TensorInfo
from trt_int8.runtime.text.labels import label_names
from trt_int8.runtime.triton.network import Network, data_type
from trt_int8.runtime.triton.network_config import dynamic_batching
from trt_int8.runtime.triton.options import TritonOptions
from trt_int8.runtime.triton.pbtxt import Message, Name, Value, entries
from trt_int8.spec.text import TextSettings

_TOKENIZED: Final = ("input_ids", "attention_mask", "token_type_ids")
_MASK = "attention_mask"


@dataclass(frozen=True)
class TextService:
    """The three models around a network.

    Attributes:
        network: the model in the middle.
        settings: how it reads text.
        logits: the output that becomes scores; None if all outputs are passed on as they are.
    """

    network: Network
    settings: TextSettings
    logits: TensorInfo | None

    @property
    def tokenizer_name(self) -> str:
        """The first model."""
        return f"{self.network.name}_tokenizer"

    @property
    def scores_name(self) -> str:
        """The last model."""
        return f"{self.network.name}_scores"

    @property
    def ensemble_name(self) -> str:
        """The model that clients call."""
        return f"{self.network.name}_text"

    @property
    def gives_offsets(self) -> bool:
        """Whether clients need to know which characters a token stands for."""
        return self.settings.task == "token-classification"

    @property
    def gives_label(self) -> bool:
        """Whether there is one best class, with a name."""
        return self.settings.problem == "single_label" and bool(self.labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, as a `TextSession` gives them; empty without a number of classes.

        Raises:
            RequestError: the model has another number of classes than of names.
        """
        count = self.network.dims(self.logits)[-1:] if self.logits is not None else ()
        return label_names(self.settings.labels, count[0]) if count and count[0] > 0 else ()


def text_service(network: Network, settings: TextSettings | None) -> TextService:
    """Check that strings can be served.

    Raises:
        RequestError: the bundle has no tokenizer, its task needs two texts, or the network has an
            input that no tokenizer makes, or nothing may be padded.
    """
    if settings is None:
        raise RequestError(
            "--text for a bundle without a tokenizer",
            wanted="a bundle that was built from a text model with its tokenizer",
            todo="build it again from the model's folder, or leave --text out",
        )
    if settings.task == "question-answering":
        raise RequestError(
            "--text for question answering, which reads a question with a context",
            wanted="a task with one text",
            todo="leave --text out, and tokenize in the client",
        )
    unknown = [i.name for i in network.signature.inputs if _base(i.name) not in _TOKENIZED]
    if unknown or not network.lengths:
        raise RequestError(
            f"--text for a model with the inputs {[i.name for i in network.signature.inputs]}",
            wanted=f"{', '.join(_TOKENIZED)} only, with a mask so that texts can be padded",
            todo="leave --text out, and prepare the inputs in the client",
        )
    return TextService(network, settings, logits_output(network, settings))


def logits_output(network: Network, settings: TextSettings | None) -> TensorInfo | None:
    """The output with one number per class; None if the task has none."""
    if settings is None or settings.task not in ("classification", "token-classification"):
        return None
    outputs = network.signature.outputs
    named = [one for one in outputs if _base(one.name) == "logits"]
    return (named or list(outputs))[0]


def tokenizer_config(service: TextService, options: TritonOptions) -> Message:
    """`config.pbtxt` of the tokenizer."""
    outputs: list[Value] = [
        _tensor(info.name, data_type(info), service.network.dims(info))
        for info in service.network.signature.inputs
    ]
    if service.gives_offsets:
        outputs.append(_tensor("offsets", "TYPE_INT64", _offsets_dims(service)))
    return _python_model(service, service.tokenizer_name, options) | {
        "input": [_text_input(service)],
        "output": outputs,
    }


def tokenizer_settings(service: TextService) -> dict[str, Any]:
    """What `models/tokenizer.py` reads."""
    settings, longest = service.settings, service.network.lengths[-1]
    pads = {"input_ids": settings.pad_token_id, "token_type_ids": settings.pad_token_type_id}
    return {
        "lengths": list(service.network.lengths),
        "max_tokens": min(settings.max_tokens or longest, longest),
        "padding_side": settings.padding_side,
        "truncation_side": settings.truncation_side,
        "offsets": service.gives_offsets,
        "inputs": {
            info.name: {
                "field": _base(info.name),
                "dtype": info.dtype,
                "pad": pads.get(_base(info.name), 0),
            }
            for info in service.network.signature.inputs
        },
    }


def scores_config(service: TextService, options: TritonOptions) -> Message:
    """`config.pbtxt` of what turns logits into scores; only for a service that has logits."""
    logits = service.logits
    assert logits is not None
    dims = service.network.dims(logits)
    return _python_model(service, service.scores_name, options) | {
        "input": [_tensor("logits", data_type(logits), dims)],
        "output": list(_score_outputs(service, dims)),
    }


def scores_settings(service: TextService) -> dict[str, Any]:
    """What `models/scores.py` reads."""
    labels = service.labels if service.gives_label else ()
    return {"problem": service.settings.problem, "labels": list(labels)}


def needs_scores(service: TextService) -> bool:
    """Whether there are logits, and they are not the answer itself."""
    return service.logits is not None and service.settings.problem != "regression"


def ensemble_config(service: TextService) -> Message:
    """`config.pbtxt` of the ensemble."""
    network = service.network
    inputs = {info.name: info.name for info in network.signature.inputs}
    tokens = inputs | ({"offsets": "offsets"} if service.gives_offsets else {})
    raw = {info.name: info.name for info in network.signature.outputs}
    outputs: list[Message] = [
        _tensor(info.name, data_type(info), network.dims(info))
        for info in network.signature.outputs
        if not (needs_scores(service) and info == service.logits)
    ]
    steps = [
        _step(service.tokenizer_name, {"text": "text"}, tokens),
        _step(network.name, inputs, raw),
    ]
    if needs_scores(service):
        assert service.logits is not None
        scores = list(_score_outputs(service, network.dims(service.logits)))
        names = {str(one["name"]): str(one["name"]) for one in scores}
        steps.append(_step(service.scores_name, {"logits": service.logits.name}, names))
        outputs = scores + outputs
    return {
        "name": service.ensemble_name,
        "platform": "ensemble",
        "max_batch_size": network.max_batch,
        "input": [_text_input(service)],
        "output": [*outputs, *_token_outputs(service)],
        "ensemble_scheduling": {"step": steps},
    }


def _token_outputs(service: TextService) -> Iterator[Message]:
    """What a client needs to tell real tokens from padding, where outputs are per token."""
    network = service.network
    if any(network.has_tokens(info) for info in network.signature.outputs):
        for info in network.signature.inputs:
            if _base(info.name) == _MASK:
                yield _tensor(info.name, data_type(info), network.dims(info))
    if service.gives_offsets:
        yield _tensor("offsets", "TYPE_INT64", _offsets_dims(service))


def _score_outputs(service: TextService, dims: tuple[int, ...]) -> Iterator[Message]:
    yield _tensor("scores", "TYPE_FP32", dims)
    if service.gives_label:
        yield _tensor("label", "TYPE_STRING", (*dims[:-1], 1))


def _python_model(service: TextService, name: str, options: TritonOptions) -> dict[str, Value]:
    network = service.network
    config: dict[str, Value] = {
        "name": name,
        "backend": "python",
        "max_batch_size": network.max_batch,
        "input": [],
        "output": [],
        "version_policy": {"specific": {"versions": [1]}},
        "instance_group": [{"count": options.instances, "kind": Name("KIND_CPU")}],
    }
    if network.max_batch:
        # It has nothing to gain from waiting: it works text by text.
        batching = dict(dynamic_batching(network, options))
        config["dynamic_batching"] = {"default_queue_policy": batching["default_queue_policy"]}
    return config


def _text_input(service: TextService) -> Message:
    return _tensor("text", "TYPE_STRING", (1,) if service.network.max_batch else (-1,))


def _offsets_dims(service: TextService) -> tuple[int, ...]:
    return (-1, 2) if service.network.max_batch else (-1, -1, 2)


def _tensor(name: str, kind: str, dims: tuple[int, ...]) -> Message:
    return {"name": name, "data_type": Name(kind), "dims": list(dims) or [1]}


def _step(name: str, inputs: dict[str, str], outputs: dict[str, str]) -> Message:
    return {
        "model_name": name,
        "model_version": -1,
        "input_map": entries(inputs),
        "output_map": entries(outputs),
    }


def _base(name: str) -> str:
    """Without the output number that TensorFlow adds."""
    return name.removesuffix(":0")
