"""The table of placement rules."""

from __future__ import annotations

import pytest

from trt_int8.spec.rules import RULES, PlacementNote, is_kept, is_too_small


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_what_why_and_a_source(rule: str) -> None:
    found = RULES[rule]
    assert all(found.what.strip() and text.strip() for text in (found.reason, found.source))
    assert rule == rule.lower()


def test_rules_do_not_repeat_each_other() -> None:
    assert len({rule.what for rule in RULES.values()}) == len(RULES)


@pytest.mark.parametrize(("k", "n", "small"), [(16, 16, False), (15, 99, True), (99, 15, True)])
def test_a_matmul_needs_sixteen_of_both(k: int, n: int, *, small: bool) -> None:
    assert is_too_small(k, n) is small


def test_patterns_tell_upper_from_lower_case() -> None:
    assert is_kept("a.Dense", ("a.D*",))
    assert not is_kept("a.dense", ("a.D*",))


def test_a_note_survives_its_json_form() -> None:
    note = PlacementNote(node="n", rule="small", reason="r")
    assert PlacementNote.model_validate_json(note.to_json()) == note
