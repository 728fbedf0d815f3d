"""What a TensorRT Python package really offers, as plain data: names, members, signatures."""

from __future__ import annotations

import inspect
import re
from types import ModuleType
from typing import TypedDict

# `name(self: pkg.Class, input: str, flags: int = 0) -> pkg.Result`, also with "1. " before it.
_SIGNATURE = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\)(?: -> (.*))?$")
_GENERIC = "*args, **kwargs"


class Signature(TypedDict):
    """One overload: parameter names in order (without self), those needed, and what it returns."""

    names: list[str]
    needed: list[str]
    returns: str


class Api(TypedDict):
    """Attributes of the module and of each of its classes; signatures by `Class.method`."""

    module: list[str]
    classes: dict[str, list[str]]
    signatures: dict[str, list[Signature]]


def describe(module: ModuleType) -> Api:
    """Ask the package itself; nested classes are named `Outer.Inner`."""
    api = Api(module=dir(module), classes={}, signatures={})
    for name in dir(module):
        value = getattr(module, name)
        if inspect.isclass(value):
            _describe_class(name, value, api)
        elif callable(value):
            api["signatures"][name] = signatures(value.__doc__ or "")
    return api


def signatures(doc: str) -> list[Signature]:
    """The overloads in a pybind11 docstring."""
    found = []
    for line in doc.splitlines():
        match = _SIGNATURE.match(line.strip())
        if match is not None and match[2] != _GENERIC:
            parts = [part.strip() for part in _split(match[2])]
            parts = [part for part in parts if part and not part.startswith("self:")]
            found.append(
                Signature(
                    names=[part.split(":")[0].strip() for part in parts],
                    needed=[part.split(":")[0].strip() for part in parts if "=" not in part],
                    returns=(match[3] or "").strip(),
                )
            )
    return found


def _split(text: str) -> list[str]:
    """Split at commas that are not inside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _describe_class(name: str, cls: type, api: Api) -> None:
    api["classes"][name] = dir(cls)
    for member in dir(cls):
        value = inspect.getattr_static(cls, member)
        if inspect.isclass(value) and member != "__class__" and name.count(".") < 2:
            _describe_class(f"{name}.{member}", value, api)
        elif callable(getattr(cls, member, None)):
            doc = getattr(cls, member).__doc__ or ""
            api["signatures"][f"{name}.{member}"] = signatures(doc)
        elif isinstance(value, property):
            found = re.search(r"-> (.*)", value.fget.__doc__ or "") if value.fget else None
            returns = found[1].strip() if found else ""
            api["signatures"][f"{name}.{member}"] = [
                Signature(names=[], needed=[], returns=returns)
            ]
