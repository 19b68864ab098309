"""What data must be before it is kept: UTF-8, JSON where it says so, not nested without end."""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DEPTH = 100
"""Levels of nesting that data may have. What reads JSON gives up between 500 and 1,000."""

SHALLOW_BYTES = 2 * MAX_DEPTH
"""Text of so many bytes has no room to be nested deeper than `MAX_DEPTH`."""

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKET = bytes(set(range(256)) - set(b"[{]}"))


def utf8_fault(text: bytes) -> str | None:
    """Return what is wrong with `text` as UTF-8, None if nothing is."""
    if text.isascii():
        return None
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"expected UTF-8, got byte 0x{text[error.start]:02x} at position {error.start}"
    return None


def json_fault(text: bytes) -> str | None:
    """Return what is wrong with `text` as JSON, None if nothing is."""
    fault = utf8_fault(text)
    if fault is not None:
        return fault
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.MsgspecError as error:
        return f"expected JSON, got {reason(error)}"
    except RecursionError:
        return DEPTH_FAULT
    return DEPTH_FAULT if too_deep(text) else None


DEPTH_FAULT = f"expected at most {MAX_DEPTH} levels of nesting, got more"


def reason(error: Exception) -> str:
    """Return what msgspec says is wrong, as the end of a sentence."""
    if isinstance(error, RecursionError):
        return f"more than {MAX_DEPTH} levels of nesting"
    if isinstance(error, UnicodeDecodeError):
        return "text that is not UTF-8"
    text = str(error)
    if text == "Input data was truncated":
        return "text that ends too soon"
    return text.replace("JSON is malformed: ", "malformed JSON, ")


def any_too_deep(texts: Sequence[bytes], within: bytes) -> bool:
    """Return whether one of these is. Where they are flat, none of them is looked at by itself.

    Args:
        texts: The data of some events, none of it empty.
        within: JSON that holds them all, each in an object of its own.
    """
    nested = sum([text[0] in b"[{" for text in texts])
    # Besides these, and the objects that they are in, so many are left for the deepest of them.
    if _brackets(within) - len(texts) - nested < MAX_DEPTH:
        return False
    return any(map(too_deep, texts))


def _brackets(text: bytes) -> int:
    """Return how many brackets open in a text.

    `bytes.count` looks at each byte by itself up to Python 3.12; what `replace` does to find the
    few that there are is four times as fast.
    """
    return 2 * len(text) - len(text.replace(b"[", b"")) - len(text.replace(b"{", b""))


def too_deep(text: bytes) -> bool:
    """Return whether JSON is nested deeper than `MAX_DEPTH`. Its syntax is known to be right.

    Counting all brackets clears nearly everything; only where they are many, those inside
    strings are left out and the rest followed one by one.
    """
    if len(text) <= SHALLOW_BYTES or _brackets(text) <= MAX_DEPTH:
        return False
    # A backslash stands only in strings, and an escape begins with the first of a row of them.
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    steps = array("b", b"".join(bare).translate(_STEPS, _NO_BRACKET))
    return max(accumulate(steps), default=0) > MAX_DEPTH
