"""The tokenizer of a bundle, and how its model reads text."""

from __future__ import annotations

from pathlib import Path

from trt_int8.errors import BundleError
from trt_int8.runtime.checks import CheckedBundle, private_copy
from trt_int8.runtime.tensors import Signature
from trt_int8.runtime.text.settings import least, longest_of, read_settings
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
        settings = _given_settings(checked.manifest.text, read_settings(place, signature))
        return load_tokenizer(place, settings, as_configured=True), settings
    if checked.manifest.text is None:
        raise BundleError(
            f"the bundle {str(checked.folder)!r} has no tokenizer",
            wanted="one from a build that saved it",
            todo="pass tokenizer=FOLDER (--tokenizer FOLDER), or build the bundle again",
        )
    known = checked.manifest.text
    # A session of fixed shapes may take shorter texts than the bundle.
    limit = least(known.max_tokens, longest_of(signature))
    settings = known.model_copy(update={"max_tokens": limit})
    # Its loaders take what they find in a folder: nothing may be there that was not checked.
    with private_copy(checked, checked.names_below(TOKENIZER_FOLDER)) as copy:
        try:
            return load_tokenizer(copy / TOKENIZER_FOLDER, settings), settings
        except BundleError as error:  # the copy is gone when its user reads of it
            came = error.came.replace(str(copy), str(checked.folder))
            raise BundleError(came, wanted=error.wanted, todo=error.todo) from error


def _given_settings(known: TextSettings | None, found: TextSettings) -> TextSettings:
    """Settings for a tokenizer that the caller named.

    What the model does, and how it is padded, the bundle says; how texts are cut, the tokenizer.
    """
    if known is None:
        return found
    limit = least(known.max_tokens, found.max_tokens)
    return known.model_copy(update={"max_tokens": limit, "truncation_side": found.truncation_side})
