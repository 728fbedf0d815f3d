from __future__ import annotations

from pathlib import Path

import pytest

from trt_int8.errors import RecipeError
from trt_int8.pipeline.options import BuildOptions


def libraries(folder: Path, *names: str) -> tuple[Path, ...]:
    places = tuple(folder / name for name in names)
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(str(place).encode())
    return places


@pytest.mark.parametrize("names", [("a/x.so", "b/x.so"), ("a/x.so", "a/y.so", "a/x.so")])
def test_plugin_libraries_that_would_overwrite_each_other_are_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    options = BuildOptions(model="m", plugin_libraries=libraries(tmp_path, *names))
    with pytest.raises(RecipeError, match=r"two plugin libraries are called 'x\.so'"):
        options.check()


def test_plugin_libraries_of_different_names_are_fine(tmp_path: Path) -> None:
    BuildOptions(model="m", plugin_libraries=libraries(tmp_path, "a/x.so", "b/y.so")).check()


def test_a_plugin_library_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no plugin library"):
        BuildOptions(model="m", plugin_libraries=(tmp_path / "none.so",)).check()
