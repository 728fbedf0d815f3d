"""Data flows one way: a later stage may import an earlier one, never the reverse."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import trt_int8

PACKAGE = Path(trt_int8.__file__).parent
STAGES = (
    *("errors", "optional", "files", "spec", "numerics", "plugins", "model", "annotate"),
    *("calibrate", "graph", "engine", "runtime", "evaluate", "tune", "pipeline", "terminal"),
    *("cli", "__main__"),
)
NOT_CODE = {"__init__.py", "__pycache__", "py.typed", "data"}
# It only shows what a build gives, so its types may come from anywhere.
TYPES_ONLY_FROM_ANYWHERE = {"terminal"}
DYNAMIC_IMPORTS = {"import_module", "__import__", "load"}


def violations(package: Path) -> list[str]:
    """Imports inside `package` (named trt_int8) that go to a later or to an unknown stage."""
    found = []
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        if parts == ("__init__",):
            allowed: tuple[str, ...] = ()
        elif parts[0] in STAGES:
            allowed = STAGES[: STAGES.index(parts[0]) + 1]
        else:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        exempt = parts[0] in TYPES_ONLY_FROM_ANYWHERE
        for line, target in imports_of(tree, parts, skip_types=exempt):
            if target not in allowed:
                found.append(f"{'/'.join(parts)}.py:{line} imports {target}")
    return found


def unlisted(package: Path) -> list[str]:
    """Modules and folders of `package` that no stage names."""
    names = {entry.name for entry in package.iterdir()} - NOT_CODE
    return sorted(name for name in names if name.removesuffix(".py") not in STAGES)


def imports_of(
    node: ast.AST, parts: tuple[str, ...], *, skip_types: bool
) -> Iterator[tuple[int, str]]:
    """(line, stage) of each import of the package itself, at any depth."""
    for name in imported_names(node, parts):
        pieces = name.split(".")
        if pieces[0] == "trt_int8" and len(pieces) > 1 and not is_dunder_value(pieces[1]):
            yield getattr(node, "lineno", 0), pieces[1]
    children = ast.iter_child_nodes(node)
    if skip_types and isinstance(node, ast.If) and is_type_checking(node.test):
        children = iter(node.orelse)
    for child in children:
        yield from imports_of(child, parts, skip_types=skip_types)


def imported_names(node: ast.AST, parts: tuple[str, ...]) -> list[str]:
    """Full dotted names that one statement or call imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = ("trt_int8", *parts)[: -node.level] if node.level else ()
        base = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else ""
        called = function.id if isinstance(function, ast.Name) else called
        if called in DYNAMIC_IMPORTS:
            return [str(node.args[0].value)]
    return []


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def is_dunder_value(name: str) -> bool:
    return name.startswith("__") and name not in STAGES


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    package = tmp_path / "trt_int8"
    (package / "graph").mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0'\n", encoding="utf-8")
    return package


def test_imports_go_from_later_to_earlier_stages_only() -> None:
    assert violations(PACKAGE) == []


def test_every_module_and_folder_has_its_place_in_the_order() -> None:
    assert unlisted(PACKAGE) == []


def test_the_checker_reads_the_real_package() -> None:
    file = PACKAGE / "cli" / "build.py"
    parts = ("cli", "build")
    found = imports_of(ast.parse(file.read_text(encoding="utf-8")), parts, skip_types=False)
    assert {"spec", "pipeline", "terminal"} <= {stage for _, stage in found}


@pytest.mark.parametrize(
    "line",
    [
        "from trt_int8.engine.build import build",
        "import trt_int8.engine.build",
        "from trt_int8 import engine",
        "from ..engine import build",
        "from .. import engine",
        "import importlib; importlib.import_module('trt_int8.engine.build')",
        "from trt_int8 import optional; optional.load('trt_int8.engine')",
    ],
)
def test_a_backward_import_hidden_in_a_function_is_seen(tree: Path, line: str) -> None:
    text = f"class A:\n    def f(self):\n        if self:\n            {line}\n"
    (tree / "graph" / "qdq.py").write_text(text, encoding="utf-8")
    assert violations(tree) == ["graph/qdq.py:4 imports engine"]


def test_a_forward_import_and_the_version_are_let_through(tree: Path) -> None:
    text = "from trt_int8 import __version__, errors\nfrom trt_int8.graph import half\n"
    (tree / "graph" / "qdq.py").write_text(text, encoding="utf-8")
    assert violations(tree) == []


TYPES = "if TYPE_CHECKING:\n    from trt_int8.cli import app\n"


def test_types_only_imports_count_outside_terminal(tree: Path) -> None:
    (tree / "graph" / "qdq.py").write_text(TYPES, encoding="utf-8")
    assert violations(tree) == ["graph/qdq.py:2 imports cli"]


def test_types_only_imports_are_let_through_in_terminal(tree: Path) -> None:
    (tree / "terminal.py").write_text(TYPES, encoding="utf-8")
    assert violations(tree) == []


def test_the_else_of_a_types_only_block_counts_in_terminal_too(tree: Path) -> None:
    text = f"{TYPES}else:\n    from trt_int8.cli import app\n"
    (tree / "terminal.py").write_text(text, encoding="utf-8")
    assert violations(tree) == ["terminal.py:4 imports cli"]


def test_the_package_root_imports_no_stage(tree: Path) -> None:
    (tree / "__init__.py").write_text("from trt_int8.errors import X\n", encoding="utf-8")
    assert violations(tree) == ["__init__.py:1 imports errors"]


@pytest.mark.parametrize("name", ["helpers", "helpers.py"])
def test_a_new_module_or_folder_without_a_place_is_seen(tree: Path, name: str) -> None:
    (tree / name).mkdir() if "." not in name else (tree / name).write_text("", encoding="utf-8")
    assert unlisted(tree) == [name]
