"""Every architecture the project names, from a model folder to proven engines for T4 and A100."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.architectures import ARCHITECTURES, arrays_for
from trt_int8.pipeline.build import BuildOutcome, run_build
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.manifest import Policy
from trt_int8.spec.targets import parse_targets

# One of each kind of input and of attention code; the others take minutes together.
QUICK = ("gpt2", "t5", "vit")


def _cases() -> list[object]:
    return [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(ARCHITECTURES)
    ]


def _build(name: str, folder: Path) -> BuildOutcome:
    model, data = ARCHITECTURES[name](folder / name), folder / "arrays.npz"
    arrays: dict[str, Any] = dict(arrays_for(name))
    np.savez(data, **arrays)
    return run_build(
        BuildOptions(
            model=str(model),
            calib=data,
            out=folder / "bundle",
            cache=None,
            targets=parse_targets("t4,a100"),
            flavour="rtx",
            policy=Policy(min_cosine=0.99),
        ),
        SilentReporter(),
    )


@pytest.mark.parametrize("name", _cases())
def test_every_matmul_and_attention_runs_int8_and_the_outputs_stay(
    name: str, tmp_path: Path
) -> None:
    outcome = _build(name, tmp_path)
    int8 = [engine for engine in outcome.coverage if engine.precision == "int8"]
    assert [engine.sm for engine in int8] == [75, 80]
    for engine in int8:
        assert [n.node for n in engine.counted if n.runs != "int8"] == []
        assert engine.attentions_int8 == engine.attentions == 2
    assert outcome.accuracy.of("int8", "fp32").cosine_mean >= 0.99
    assert outcome.manifest.verdict.recommended == "int8"
