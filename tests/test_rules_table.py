"""The page of placement rules is made from the rules."""

from __future__ import annotations

import pytest

from scripts.write_rules_table import PAGE, tables


@pytest.mark.parametrize("mark", ["recipes", "rules", "limits"])
def test_the_page_holds_the_tables_of_today(mark: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    body = text.split(f"<!-- {mark}:start -->\n")[1].split(f"\n<!-- {mark}:end -->")[0]
    assert body == tables()[mark]
