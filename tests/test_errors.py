from __future__ import annotations

import pickle

import pytest

from trt_int8 import errors
from trt_int8.errors import CancelledError, RangeError, TrtInt8Error


def all_errors() -> list[type[TrtInt8Error]]:
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return [kind for kind in found if issubclass(kind, TrtInt8Error)]


def test_the_message_says_what_came_what_was_wanted_and_what_to_do() -> None:
    error = RangeError("amax is 0", wanted="finite values > 0", todo="add data")
    assert str(error) == "amax is 0; wanted finite values > 0; add data."


def test_the_three_parts_can_be_read_one_by_one() -> None:
    error = RangeError("came", wanted="wanted", todo="todo")
    assert (error.came, error.wanted, error.todo) == ("came", "wanted", "todo")


def test_the_message_is_one_line_even_if_a_part_has_several() -> None:
    error = RangeError("first\n  second\r\nthird", wanted="a\nb", todo="c")
    assert str(error) == "first second third; wanted a b; c."


def test_two_spaces_in_a_file_name_are_kept() -> None:
    error = RangeError("no file 'my  model.onnx'", wanted="a file", todo="check the path")
    assert "'my  model.onnx'" in str(error)


def test_a_question_at_the_end_gets_no_full_stop() -> None:
    error = RangeError("unknown target 'tt4'", wanted="a card", todo="did you mean 't4'?")
    assert str(error).endswith("did you mean 't4'?")


def test_every_error_of_the_module_has_the_one_base_class() -> None:
    raised = [v for v in vars(errors).values() if isinstance(v, type)]
    assert len(raised) > 10
    assert [kind for kind in raised if not issubclass(kind, TrtInt8Error)] == []


def test_no_error_is_named_like_a_builtin() -> None:
    import builtins

    assert [kind.__name__ for kind in all_errors() if hasattr(builtins, kind.__name__)] == []


def test_exit_codes_are_1_but_for_policy_and_cancel() -> None:
    codes = {kind: kind.exit_code for kind in all_errors()}
    assert codes.pop(CancelledError) == 130
    assert set(codes.values()) == {1}


def test_a_cancelled_build_says_that_nothing_is_left_behind() -> None:
    with pytest.raises(TrtInt8Error, match="nothing half-written was left behind"):
        raise CancelledError


@pytest.mark.parametrize("error", [RangeError("a", wanted="b", todo="c"), CancelledError()])
def test_an_error_survives_the_way_to_another_process(error: TrtInt8Error) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.todo) == (type(error), str(error), error.todo)
