"""Check source code that uses TensorRT against what a version of TensorRT really offers.

Follows every value that comes out of the module (`trt`, `self._trt`) through the source: a
class, an enum, what a call returns by its docstring. Each attribute that the source reads from
such a value must exist, and each call must fit one of the signatures. Code behind
`if hasattr(x, "name")` counts only for versions where that is true, and so does a private function
that is only called there. A value that cannot be followed
is a fault too, so nothing new slips through.
"""

from __future__ import annotations

import ast
import re

from tests.support.trt_api import Api, Signature

MODULE = "<module>"
PYTHON = "<python>"
# Spellings in docstrings of classes whose Python name pybind did not know yet.
_CPP_NAMES = {"IEngineInspector": "EngineInspector", "IParserError": "ParserError"}
# Functions whose docstring hides what they return, by their documented purpose.
_HIDDEN_RETURNS = {"get_plugin_registry": "IPluginRegistry"}
_PLAIN = {"str", "bool", "int", "float", "None", "capsule", "CapsuleType", "list", "object", ""}


def faults(source: str, api: Api) -> list[str]:
    """What the source uses that this version lacks, one line each with its line number."""
    checker = _Checker(ast.parse(source), api)
    return checker.run()


class _Checker(ast.NodeVisitor):
    def __init__(self, tree: ast.Module, api: Api) -> None:
        self._tree, self._api = tree, api
        self._types: dict[str, str] = {"trt": MODULE}
        self._faults: list[str] = []
        self._any: set[str] = set()
        private = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[0] == "_"]
        self._unvisited = {function.name: function for function in private}

    def run(self) -> list[str]:
        for _ in range(6):  # assignments feed each other
            for node in ast.walk(self._tree):
                if isinstance(node, ast.Assign):
                    self._learn(node)
        for node in ast.walk(self._tree):
            if isinstance(node, ast.arg) and ast.unparse(node.annotation or node) == "Any":
                self._any.add(node.arg)
        for statement in self._tree.body:
            if getattr(statement, "name", "") not in self._unvisited:
                self.visit(statement)
        return list(dict.fromkeys(self._faults))

    def _learn(self, node: ast.Assign) -> None:
        for target in node.targets:
            kind = self._type_of(node.value)
            if isinstance(target, ast.Name) and kind is not None:
                known = self._types.get(target.id)
                if known in (None, PYTHON) or kind != PYTHON:
                    self._types[target.id] = kind

    def _type_of(self, node: ast.expr) -> str | None:
        """Class name in the package, MODULE, PYTHON for anything else, None if unknown yet."""
        if isinstance(node, ast.Name):
            return self._types.get(node.id)
        if isinstance(node, ast.Attribute):
            if ast.unparse(node) == "self._trt":
                return MODULE
            owner = self._type_of(node.value)
            return None if owner is None else self._member_type(owner, node.attr)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                return PYTHON  # the source's own function, or a builtin
            name = self._path(node.func)
            if name in self._api["classes"]:
                return name  # a constructor
            if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "self":
                return PYTHON
            return self._returned(name)
        return None

    def _member_type(self, owner: str, member: str) -> str | None:
        if owner == PYTHON:
            return PYTHON
        path = member if owner == MODULE else f"{owner}.{member}"
        if path in self._api["classes"]:
            return path
        return self._returned(path)

    def _path(self, func: ast.expr) -> str | None:
        """`Class.method` or `function` for something called, None if it is not TensorRT's."""
        if not isinstance(func, ast.Attribute):
            return None
        owner = MODULE if ast.unparse(func.value) == "self._trt" else self._type_of(func.value)
        if owner in (None, PYTHON):
            return None
        return func.attr if owner == MODULE else f"{owner}.{func.attr}"

    def _returned(self, path: str | None) -> str | None:
        if path is None or path not in self._api["signatures"]:
            return None
        if path in _HIDDEN_RETURNS:
            return _HIDDEN_RETURNS[path]
        for signature in self._api["signatures"][path]:
            name = re.split(r"\.|::", signature["returns"])[-1]
            name = _CPP_NAMES.get(name, name)
            if name in self._api["classes"]:
                return name
            if name in _PLAIN:
                return PYTHON
        return None

    # ---- reachability: what `hasattr` answers in this version ----

    def _probe(self, test: ast.expr) -> bool | None:
        """Value of a lone `hasattr(x, "name")` in this version; None for any other test."""
        if isinstance(test, ast.Call) and ast.unparse(test.func) == "hasattr":
            thing, name = test.args
            if isinstance(name, ast.Constant):
                return self._has(self._type_of(thing), str(name.value))
        return None

    def _has(self, owner: str | None, name: str) -> bool:
        if owner == MODULE:
            return name in self._api["module"]
        return name in self._api["classes"].get(owner or "", [])

    def visit_If(self, node: ast.If) -> None:
        answer = self._probe(node.test)
        self.visit(node.test)
        for part, wanted in ((node.body, True), (node.orelse, False)):
            if answer in (None, wanted):
                for statement in part:
                    self.visit(statement)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        answer = self._probe(node.test)
        self.visit(node.test)
        for part, wanted in ((node.body, True), (node.orelse, False)):
            if answer in (None, wanted):
                self.visit(part)

    # ---- uses ----

    def visit_Name(self, node: ast.Name) -> None:
        # A private function counts from its first use in code that this version reaches.
        function = self._unvisited.pop(node.id, None)
        if function is not None:
            self.visit(function)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        owner = self._type_of(node.value)
        root = node.value.id if isinstance(node.value, ast.Name) else ""
        if owner is None and (root in self._any or self._comes_from_trt(node.value)):
            self._fault(node, f"cannot follow {ast.unparse(node.value)}, read for {node.attr!r}")
        elif owner not in (None, PYTHON) and not self._has(owner, node.attr):
            self._fault(node, f"{owner} has no {node.attr!r}")

    def _comes_from_trt(self, node: ast.expr) -> bool:
        return any(
            ast.unparse(part) in ("trt", "self._trt")
            or (isinstance(part, ast.Name) and self._types.get(part.id, PYTHON) != PYTHON)
            for part in ast.walk(node)
            if isinstance(part, (ast.Name, ast.Attribute))
        )

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        if ast.unparse(node.func) == "getattr" and self._type_of(node.args[0]) is not None:
            probe = f"hasattr({ast.unparse(node.args[0])}, {ast.unparse(node.args[1])})"
            if self._type_of(node.args[0]) != PYTHON and probe not in ast.unparse(self._tree):
                self._fault(node, f"{ast.unparse(node)} without a {probe}")
        path = self._path(node.func)
        if path in self._api["classes"]:
            path = f"{path}.__init__"
        overloads = self._api["signatures"].get(path or "")
        if overloads and not any(_fits(node, signature) for signature in overloads):
            self._fault(node, f"{ast.unparse(node)} does not fit {path}{overloads}")

    def _fault(self, node: ast.expr, text: str) -> None:
        self._faults.append(f"line {node.lineno}: {text}")


def _fits(call: ast.Call, signature: Signature) -> bool:
    positional = [a for a in call.args if ast.unparse(a) != "self"]
    if len(positional) > len(signature["names"]):
        return False
    given = signature["names"][: len(positional)] + [str(k.arg) for k in call.keywords]
    return set(signature["needed"]) <= set(given) <= set(signature["names"])
