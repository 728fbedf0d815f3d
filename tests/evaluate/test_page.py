from __future__ import annotations

import jinja2
import pytest

from trt_int8.evaluate.page import render


def test_a_value_that_a_template_misses_is_an_error_not_a_gap() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'data' is undefined"):
        render("report.html.j2", {})


def test_every_page_has_the_common_style() -> None:
    assert ".scroll { overflow-x: auto; }" in render("style.css.j2", {})
