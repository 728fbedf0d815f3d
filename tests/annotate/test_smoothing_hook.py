"""The hook that hands all readers of one tensor the very same divided one."""

from __future__ import annotations

import pickle
import weakref

import pytest
import torch
from torch import Tensor, nn

from trt_int8.annotate.smoothing import Divide


def divide(readers: int, channels: int = 3) -> Divide:
    return Divide(torch.full((channels,), 0.5), readers)


def divided(hook: Divide, x: Tensor) -> Tensor:
    result: Tensor = hook(nn.Identity(), (x,))[0]
    return result


def test_each_reader_of_a_tensor_gets_the_same_object() -> None:
    hook, x = divide(3), torch.ones(2, 3)
    results = [divided(hook, x) for _ in range(3)]
    assert results[0] is results[1] is results[2]
    assert results[0].tolist() == [[0.5] * 3] * 2
    assert torch.equal(x, torch.ones(2, 3))


def test_another_tensor_with_the_same_values_is_divided_anew() -> None:
    hook, x = divide(2), torch.ones(2, 3)
    assert divided(hook, x) is not divided(hook, x.clone())


def test_a_tensor_that_changed_in_place_between_two_reads_is_divided_anew() -> None:
    hook, x = divide(2), torch.ones(2, 3)
    first = divided(hook, x)
    x.add_(1)
    assert divided(hook, x).tolist() == [[1.0] * 3] * 2
    assert first.tolist() == [[0.5] * 3] * 2


def test_a_tensor_whose_changes_are_not_counted_is_always_divided_anew() -> None:
    hook = divide(2)
    with torch.inference_mode():
        x = torch.ones(2, 3)
        divided(hook, x)
        x.add_(1)
        assert divided(hook, x).tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("readers", [1, 3])
def test_the_result_is_let_go_of_after_the_last_reader(readers: int) -> None:
    hook, x = divide(readers), torch.ones(2, 3)
    kept = weakref.ref(divided(hook, x))
    assert (kept() is None) == (readers == 1)
    for _ in range(readers - 1):
        divided(hook, x)
    assert kept() is None


def test_the_tensor_itself_is_not_kept_alive() -> None:
    hook, x = divide(3), torch.ones(2, 3)
    divided(hook, x)
    gone = weakref.ref(x)
    del x
    assert gone() is None


def test_a_reader_that_comes_once_more_gets_the_right_values() -> None:
    hook, x = divide(2), torch.ones(2, 3)
    results = [divided(hook, x) for _ in range(5)]
    assert all(torch.equal(results[0], each) for each in results)


def test_further_arguments_are_handed_on() -> None:
    x = torch.ones(2, 3)
    assert divide(1)(nn.Identity(), (x, "more", 7))[1:] == ("more", 7)


def test_a_hook_is_pickled_without_what_it_holds() -> None:
    hook, x = divide(2), torch.ones(2, 3)
    first = divided(hook, x)
    other = pickle.loads(pickle.dumps(hook))
    assert divided(hook, x) is first  # what was pickled goes on as before
    assert torch.equal(divided(other, x), first)
