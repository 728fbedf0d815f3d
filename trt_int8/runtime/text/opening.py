"""The tokenizer of a bundle, and how its model reads text."""

from __future__ import annotations

from pathlib import Path

from trt_int8.errors import BundleError
from trt_int8.runtime.checks import CheckedBundle, verify
from trt_int8.runtime.tensors import Signature
from trt_int8.runtime.text.settings import read_settings
from trt_int8.runtime.text.tokens import TextTokenizer, load_tokenizer
from trt_int8.spec.text import TOKENIZER_FOLDER, TextSettings


def open_tokenizer(
    checked: CheckedBundle, signature: Signature, given: Path | str | None = None
) -> tuple[TextTokenizer, TextSettings]:
    """Load the tokenizer of a bundle, its files checked, or another one.

    Args:
        checked: the bundle.
        signature: of its graph.
        given: folder to use instead of the bundle's own.

    Raises:
        BundleError: there is none, or it is missing, changed or damaged.
    """
    if given is not None:
        place = Path(given)
        settings = checked.manifest.text or read_settings(place, signature)
        return load_tokenizer(place, settings), settings
    if checked.manifest.text is None:
        raise BundleError(
            f"the bundle {str(checked.folder)!r} has no tokenizer",
            wanted="one from a build that saved it",
            todo="pass tokenizer=FOLDER (--tokenizer FOLDER), or build the bundle again",
        )
    verify(checked, checked.names_below(TOKENIZER_FOLDER))
    settings = checked.manifest.text
    return load_tokenizer(checked.folder / TOKENIZER_FOLDER, settings), settings
