from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.collected import EVERYTHING
from tests.support.ragged import LENGTHS, padded, ragged_tokens, same_length, tiny_tensors
from tests.support.range_models import Halver, halver, ids, repeater
from tests.support.same_statistics import assert_all_same
from trt_int8.calibrate.collector import Statistics, merge_statistics
from trt_int8.calibrate.estimate.weights import weight_amax
from trt_int8.calibrate.statistics import Needs
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.calibrate.torch_statistics import TorchTensors, apply_ranges, apply_weight_ranges
from trt_int8.errors import RangeError
from trt_int8.spec.ranges import TensorRange

BATCHES = [ids([4, 30], [8, 2]), ids([1, 3, 5])]
LAYERS, HEADS, HIDDEN, WIDE = 2, 2, 64, 80


def nothing() -> None:
    """Progress that nobody watches."""


def collect(
    batches: Sequence[TokenArrays] = BATCHES,
    needs: Needs = EVERYTHING,
    advance: Callable[[], None] = nothing,
    *,
    unused: bool = False,
) -> Statistics:
    model, sites = halver(unused=unused)
    return TorchTensors(model, ("ids",), sites).collect(tuple(enumerate(batches)), needs, advance)


def test_each_site_gets_the_statistics_of_its_own_values() -> None:
    found = collect()
    assert {name: (s.low, s.high, s.count) for name, s in found.items()} == {
        "half": (0.5, 15.0, 7),
        "shifted": (-9.5, 5.0, 7),
    }
    assert found["half"].batches == {0: (1.0, 15.0), 1: (0.5, 2.5)}


def test_batches_keep_the_numbers_they_are_given() -> None:
    model, sites = halver()
    batches = ((9, BATCHES[1]), (4, BATCHES[0]))
    found = TorchTensors(model, ("ids",), sites).collect(batches, EVERYTHING, nothing)
    assert found["half"].batches == {4: (1.0, 15.0), 9: (0.5, 2.5)}


def test_calibration_runs_the_float_model() -> None:
    model, sites = halver()
    for quantizer in sites.activations.values():
        quantizer.amax = 1.0
    seen: list[Tensor] = []
    model.register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
    TorchTensors(model, ("ids",), sites).collect(((0, ids([3, 11])),), EVERYTHING, nothing)
    assert seen[-1].tolist() == [[-8.5, -4.5]]


def test_progress_is_told_once_per_batch() -> None:
    ticks: list[int] = []
    collect(advance=lambda: ticks.append(1))
    assert len(ticks) == 2


def test_no_batches_give_no_statistics() -> None:
    assert collect([]) == {}


def test_only_what_is_needed_is_kept() -> None:
    found = collect(needs=Needs(histogram=False))["half"]
    assert (found.histogram, found.rows) == (None, None)


def test_quantizers_are_switched_off_afterwards_even_if_a_batch_is_refused() -> None:
    model, sites = halver()
    tensors = TorchTensors(model, ("ids",), sites)
    tensors.collect(tuple(enumerate(BATCHES)), EVERYTHING, nothing)
    with pytest.raises(RangeError):
        tensors.collect(((0, ids([99])),), EVERYTHING, nothing)
    (output,) = model(torch.tensor([[777]]))
    assert output.tolist() == [[378.5]]


@pytest.mark.parametrize("needs", [EVERYTHING, Needs(histogram=False)])
@pytest.mark.parametrize("where", [0, 2])
@pytest.mark.parametrize(
    ("token", "message"), [(99, "'half' holds NaN"), (88, "'half' holds NaN or infinity")]
)
def test_nan_and_infinity_inside_a_model_are_refused_by_name(
    token: int, message: str, where: int, needs: Needs
) -> None:
    batches = list(BATCHES)
    batches.insert(where, ids([1, token]))
    with pytest.raises(RangeError, match=message):
        collect(batches, needs)


def test_a_model_that_gives_nan_where_no_site_looks_is_refused() -> None:
    model, sites = halver()
    del sites.activations["half"], sites.activations["shifted"]
    tensors = TorchTensors(model, ("ids",), sites)
    with pytest.raises(RangeError, match="the float model gives NaN or infinity on a calibration"):
        tensors.collect(((0, ids([1, 99])),), EVERYTHING, nothing)


def test_a_site_that_sees_no_data_has_no_statistics() -> None:
    assert "unused" not in collect(unused=True)


def test_a_second_collection_forgets_the_first() -> None:
    model, sites = halver()
    tensors = TorchTensors(model, ("ids",), sites)
    tensors.collect(((0, ids([2000, 2000])),), EVERYTHING, nothing)
    assert tensors.collect(((0, ids([4, 30])),), EVERYTHING, nothing)["half"].peak == 15.0


def repeated(*rows: list[int], mask: list[list[int]] | None = None) -> TokenArrays:
    found = ids(*rows)
    return found | {"attention_mask": np.array(mask) if mask else np.ones_like(found["ids"])}


def test_a_layer_used_twice_in_one_run_is_seen_twice() -> None:
    model, sites = repeater()
    tensors = TorchTensors(model, ("ids", "attention_mask"), sites)
    found = tensors.collect(((3, repeated([4, 6])),), EVERYTHING, nothing)
    assert (found["first"].count, found["first"].batches) == (4, {3: (2.0, 103.0)})
    assert found["first"] is found["second"]


def test_padding_enters_neither_the_sites_nor_the_check_of_the_output() -> None:
    model, sites = repeater()
    tensors = TorchTensors(model, ("ids", "attention_mask"), sites)
    batch = repeated([4, 6, 0], [8, 0, 0], mask=[[1, 1, 0], [1, 0, 0]])
    found = tensors.collect(((0, batch),), EVERYTHING, nothing)
    assert (found["first"].count, found["first"].low, found["first"].high) == (6, 2.0, 104.0)


class Long(nn.Module):
    """Refuses texts of fewer than nine tokens, so it cannot be probed."""

    def __init__(self, inner: Halver) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        if ids.shape[1] < 9:
            raise IndexError("too short")
        result: tuple[Tensor] = self.inner(ids)
        return result


def test_a_model_that_cannot_be_probed_is_calibrated_without_padding_and_refused_with_it() -> None:
    model, sites = halver()
    tensors = TorchTensors(Long(model), ("ids", "attention_mask"), sites)
    row = list(range(9))
    found = tensors.collect(((0, repeated(row)),), EVERYTHING, nothing)
    assert found["half"].count == 9
    batch = repeated(row, row, mask=[[1] * 9, [1] * 8 + [0]])
    with pytest.raises(RangeError, match=r"tensor 'half' of shape \[2, 9\] has an axis of unknown"):
        tensors.collect(((0, batch),), EVERYTHING, nothing)


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra"])
def test_padding_changes_nothing_but_the_rounding_of_a_transformer(family: str) -> None:
    tensors, _, _ = tiny_tensors(family)
    alone = tensors.collect(same_length(), EVERYTHING, nothing)
    filled = tensors.collect(padded(), EVERYTHING, nothing)
    assert list(filled) == list(alone)
    for name, expected in alone.items():
        found = filled[name]
        assert found.count == expected.count, name
        assert found.low == pytest.approx(expected.low, rel=1e-4, abs=1e-5), name
        assert found.high == pytest.approx(expected.high, rel=1e-4, abs=1e-5), name


def test_the_counts_of_a_padded_transformer_are_those_of_its_tokens() -> None:
    found = tiny_tensors()[0].collect(padded(), EVERYTHING, nothing)
    tokens, pairs = sum(LENGTHS), sum(length**2 for length in LENGTHS)
    layer = "model.encoder.layer.1"
    assert found[f"{layer}.attention.self.query.input"].count == tokens * HIDDEN
    assert found[f"{layer}.output.dense.input"].count == tokens * WIDE
    assert found[f"{layer}.attention.self.softmax"].count == HEADS * pairs
    assert found[f"{layer}.attention.self.key"].count == tokens * HIDDEN
    assert found[f"{layer}.attention.self.context"].count == tokens * HIDDEN


def test_without_the_mask_padding_would_be_seen() -> None:
    """The tests above can fail."""
    tensors, _, _ = tiny_tensors()
    blind = [
        (number, batch | {"attention_mask": np.ones_like(batch["attention_mask"])})
        for number, batch in padded()
    ]
    alone = tensors.collect(same_length(), EVERYTHING, nothing)
    filled = tensors.collect(tuple(blind), EVERYTHING, nothing)
    assert all(filled[name].count != alone[name].count for name in alone)


@pytest.mark.parametrize("batches", [same_length(), padded()], ids=["one length", "padded"])
def test_shards_in_any_order_merge_to_one_run_bit_for_bit(
    batches: tuple[tuple[int, TokenArrays], ...],
) -> None:
    tensors, _, _ = tiny_tensors()
    whole = tensors.collect(batches, EVERYTHING, nothing)
    merged: Statistics = {}
    for part in (batches[2:], batches[1:2], batches[:1]):
        merge_statistics(merged, tensors.collect(tuple(reversed(part)), EVERYTHING, nothing))
    assert_all_same(merged, whole)


def test_q_k_and_v_share_the_statistics_of_their_input() -> None:
    found = tiny_tensors()[0].collect(same_length(), EVERYTHING, nothing)
    layer = "model.encoder.layer.0.attention.self"
    inputs = [found[f"{layer}.{part}.input"] for part in ("query", "key", "value")]
    assert inputs[0] is inputs[1] is inputs[2]
    assert len({id(each) for each in found.values()}) == len(found) - 2 * LAYERS


def test_q_k_and_v_are_one_group_and_every_site_is_in_one() -> None:
    tensors, _, sites = tiny_tensors()
    groups = tensors.groups(ragged_tokens((3,))[0])
    layer = "model.encoder.layer.0.attention.self"
    assert tuple(f"{layer}.{part}.input" for part in ("query", "key", "value")) in groups
    assert sorted(name for group in groups for name in group) == sorted(sites.activations)
    assert sorted(map(len, groups))[-3:] == [1, 3, 3]


def test_finding_groups_leaves_the_quantizers_off_and_the_answers_alone() -> None:
    tensors, model, _ = tiny_tensors()
    batch = ragged_tokens((3,))[0]
    arrays = [torch.from_numpy(batch[name]) for name in model.input_names]
    with torch.no_grad():
        before = model.wrapper(*arrays)[0]
        tensors.groups(batch)
        assert torch.equal(model.wrapper(*arrays)[0], before)


def test_a_pickled_copy_finds_the_same() -> None:
    """As a worker on another machine gets it."""
    tensors, _, _ = tiny_tensors()
    copy = pickle.loads(pickle.dumps(tensors))
    batches = same_length((3, 5))
    found = copy.collect(batches, EVERYTHING, nothing)
    assert_all_same(found, tensors.collect(batches, EVERYTHING, nothing))


def test_calibration_changes_no_parameter_and_no_answer() -> None:
    tensors, model, _ = tiny_tensors()
    batch = ragged_tokens((5,))[0]
    arrays = [torch.from_numpy(batch[name]) for name in model.input_names]
    with torch.no_grad():
        before = model.wrapper(*arrays)[0]
        tensors.collect(same_length(), EVERYTHING, nothing)
        assert torch.equal(model.wrapper(*arrays)[0], before)


def test_loaded_ranges_decide_the_steps() -> None:
    model, sites = halver()
    apply_ranges(
        sites, {"half": TensorRange(amax=127, peak=200), "shifted": TensorRange(amax=254, peak=254)}
    )
    sites.enable(quantize=True)
    (output,) = model(torch.tensor([[25, 27, 301]]))
    # half: 12.5 -> 12, 13.5 -> 14, 150.5 -> 127 at step 1; shifted: 2, 4, 117 at step 2.
    assert output.tolist() == [[2.0, 4.0, 116.0]]


def test_other_ranges_replace_those_loaded_before() -> None:
    _, sites = halver()
    for amax in (3.0, 5.0):
        apply_ranges(sites, dict.fromkeys(sites.activations, TensorRange(amax=amax, peak=9)))
    assert [float(q.amax) for q in sites.activations.values()] == [5.0, 5.0]


def test_a_site_without_a_range_is_named() -> None:
    _, sites = halver(unused=True)
    with pytest.raises(RangeError, match=r"no range for 'shifted' \(2 missing\)"):
        apply_ranges(sites, {"half": TensorRange(amax=1, peak=1)})


def test_every_site_of_the_recipe_is_watched_in_the_order_of_the_model() -> None:
    tensors, _, sites = tiny_tensors()
    found = tensors.collect(same_length((3,)), EVERYTHING, nothing)
    assert set(found) == set(sites.activations)
    assert next(iter(found)) == "model.encoder.layer.0.attention.self.query.input"


@pytest.mark.parametrize("method", ["max", "mse"])
def test_weight_ranges_are_loaded_per_output_channel(method: Literal["max", "mse"]) -> None:
    _, _, sites = tiny_tensors()
    apply_weight_ranges(sites, method)
    assert sites.weights
    for linear in sites.weights.values():
        expected = weight_amax(linear.weight.detach().numpy(), 0, method)
        assert linear.weight_quantizer.amax.flatten().tolist() == expected.tolist()
