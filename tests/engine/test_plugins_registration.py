from __future__ import annotations

import pytest

from trt_int8.engine.plugins.registration import tactics_of
from trt_int8.errors import PluginError


@pytest.mark.parametrize(
    ("sm", "tactics"),
    [(75, (75,)), (80, (75, 80)), (86, (75, 80)), (120, (75, 80)), (None, (75, 80))],
)
def test_a_card_is_offered_the_kernels_that_it_is_not_older_than(
    sm: int | None, tactics: tuple[int, ...]
) -> None:
    assert tactics_of(sm) == tactics


def test_a_card_older_than_every_kernel_is_refused() -> None:
    with pytest.raises(PluginError, match="the card is an SM70; wanted SM75 or newer"):
        tactics_of(70)
