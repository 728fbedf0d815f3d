"""The benchmark's result as tables, for the terminal and for Markdown."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.runtime_peers.registry import BASELINE


def print_result(result: dict[str, Any], console: Console) -> None:
    """Print every part that was measured."""
    console.print(_peers_table(result))
    for name, found in result["shapes"].items():
        console.print(f"{name}: fastest is {found['fastest']}")
    if "share_of_peak" in result:
        console.print("peaks", result["peaks"])
        console.print("share of peak", result["share_of_peak"])
    if "overhead" in result:
        console.print("overhead", result["overhead"])
    if "map" in result:
        console.print(_map_table(result["map"]))


def _peers_table(result: dict[str, Any]) -> Table:
    table = Table(title=f"ms per call, median (quartiles); {result['threads']} threads")
    head, rows = peer_rows(result)
    for column in head:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    return table


def peer_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: peer, time and ratio at each shape, accuracy; or the error of the peer."""
    shapes = list(result["shapes"])
    head = ["peer", *shapes, "cosine", "STS-B"]
    rows = []
    for name, found in result["peers"].items():
        if "error" in found:
            rows.append([found["title"], found["error"][:80], *[""] * (len(head) - 2)])
            continue
        cells = [_time_cell(result, name, shape) for shape in shapes]
        accuracy = found["accuracy"]
        spearman = accuracy.get("stsb_spearman_x100")
        told = "" if spearman is None else f"{spearman:.2f}"
        rows.append([found["title"], *cells, f"{accuracy['mean_cosine']:.4f}", told])
    return head, rows


def _time_cell(result: dict[str, Any], name: str, shape: str) -> str:
    ms = result["peers"][name]["ms"][shape]
    cell = f"{ms['median']:.2f} ({ms['lower_quartile']:.2f}-{ms['upper_quartile']:.2f})"
    over = result["shapes"][shape].get(f"over_{BASELINE}", {}).get(name)
    return f"{cell} {over['median']:.2f}x" if over else cell


def _map_table(found: dict[str, Any]) -> Table:
    tokens = found["tokens"]
    table = Table(
        title=f"{found['sentences']} sentences, {tokens['least']} to {tokens['most']} tokens"
    )
    for column in ("run", "seconds", "padding", "largest difference", "map is faster"):
        table.add_column(column)
    for name, run in found["runs"].items():
        table.add_row(
            name,
            f"{run['seconds']['median']:.2f}",
            f"{run['padding_share']:.0%}",
            f"{run['largest_difference']:.1e}",
            f"{run['map_is_faster']['median']:.2f}x",
        )
    return table


def markdown(result: dict[str, Any]) -> str:
    """Everything that was measured, for a page."""
    cpu = result["environment"]["cpu"]
    about = (
        f"{cpu.get('name', 'unknown CPU')} ({', '.join(cpu.get('flags', ())) or 'no INT8 flags'});"
        f" median of {result['rounds']} rounds of {result['calls_per_round']} calls (quartiles),"
        f" ratio over ONNX Runtime FP32; accuracy on {result['accuracy_on']}."
    )
    parts = [about, _rows(*peer_rows(result))]
    if "share_of_peak" in result:
        parts.append(_peak_rows(result))
    if "overhead" in result:
        over = result["overhead"]["session_over_bare"]
        parts.append(
            f"Session.run over a bare OpenVINO infer call of the same compiled model, B8 S128:"
            f" {over['median']:.4f} ({over['lower_quartile']:.4f}-{over['upper_quartile']:.4f})."
        )
    if "map" in result:
        parts.append(_map_rows(result["map"]))
    return "\n\n".join(parts)


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _peak_rows(result: dict[str, Any]) -> str:
    peaks = result["peaks"]
    adds = ", ".join(
        f"{kind} {value / 1e12:.2f}" for kind, value in peaks["multiply_adds_per_s"].items()
    )
    read = peaks["read_bytes_per_s"]["cached"] / 1e9
    rows = [
        [
            shape,
            f"{found['int8_multiply_adds'] / 1e9:.2f}",
            f"{(found['weight_bytes'] + found['activation_bytes']) / 1e6:.0f}",
            f"{found['least_ms']:.2f}",
            ", ".join(
                f"{name.removesuffix('_share')} {share:.0%}"
                for name, share in found.items()
                if name.endswith("_share")
            ),
        ]
        for shape, found in result["share_of_peak"].items()
    ]
    head = ["shape", "10^9 INT8 multiply-adds", "MB moved", "least ms", "share of that reached"]
    measured = (
        f"What this CPU does at best, measured: {adds} (10^12 multiply-adds per second), {read:.0f}"
        " GB/s read from its caches. `least ms` is the matmuls alone at that speed:"
    )
    return f"{measured}\n\n{_rows(head, rows)}"


def _map_rows(found: dict[str, Any]) -> str:
    tokens = found["tokens"]
    rows = [
        [
            name,
            f"{run['seconds']['median']:.2f}",
            f"{run['padding_share']:.0%}",
            f"{run['largest_difference']:.1e}",
            f"{run['map_is_faster']['median']:.2f}x",
        ]
        for name, run in found["runs"].items()
    ]
    head = ["run", "seconds", "padding", "largest difference", "map is faster"]
    about = (
        f"`session.map` on {found['sentences']} sentences of {tokens['least']} to"
        f" {tokens['most']} tokens, against unsorted batches of one size through the same session:"
    )
    return f"{about}\n\n{_rows(head, rows)}"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
