"""Values with units: how they are written in a configuration, and what they are in Python.

    "250ms" "1.5s" "5m" "1h" "7d"          seconds, float
    "100B" "512KiB" "1MiB" "10GB" "1TB"    bytes, int (KiB = 1024, KB = 1000)
    "50/s" "100/m" "5/h" "1/d"             per second, float
    "10%" "2.5%"                           Share

One number, one unit, no blank between. A bare number is never taken: whether 5 is seconds or
minutes is for the writer to say. Each format is the inverse of its parse: what `eventflow check`
prints can be copied back into the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

_NUMBER = r"([0-9]{1,20}(?:\.[0-9]{1,20})?)"
_DURATION = re.compile(_NUMBER + r"(ms|s|m|h|d)")
_SIZE = re.compile(_NUMBER + r"(B|KiB|MiB|GiB|TiB|KB|MB|GB|TB)")
_RATE = re.compile(_NUMBER + r"/(s|m|h|d)")
_SHARE = re.compile(_NUMBER + r"%")

DAY_S: Final = 86_400.0

_SECONDS: Final = {
    "d": Decimal(86_400),
    "h": Decimal(3_600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}
_BYTES: Final = {
    "TiB": 2**40,
    "GiB": 2**30,
    "MiB": 2**20,
    "KiB": 2**10,
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "KB": 10**3,
    "B": 1,
}


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, such as `recovery.rate = "10%"`."""

    fraction: float
    """0 to 1: "10%" is 0.1."""


def parse_duration(text: str) -> float:
    """Return the seconds that `text` names.

    Raises:
        ValueError: `text` is not a number with ms, s, m, h or d.
    """
    number, unit = _split(_DURATION, text, "a duration")
    return float(Decimal(number) * _SECONDS[unit])


def parse_size(text: str) -> int:
    """Return the bytes that `text` names.

    Raises:
        ValueError: `text` is not a number with B, KB … TB or KiB … TiB, or not whole bytes.
    """
    number, unit = _split(_SIZE, text, "a size")
    size = Decimal(number) * _BYTES[unit]
    if size != int(size):
        raise ValueError(f"expected a size of whole bytes, got {text!r}")
    return int(size)


def parse_rate(text: str) -> float:
    """Return the number per second that `text` names.

    Raises:
        ValueError: `text` is not a number with /s, /m, /h or /d.
    """
    number, unit = _split(_RATE, text, "a rate")
    return float(Decimal(number) / _SECONDS[unit])


def parse_share(text: str) -> Share:
    """Return the share that `text` names.

    Raises:
        ValueError: `text` is not a number with %, or above 100 %.
    """
    match = _SHARE.fullmatch(text)
    if match is None or Decimal(match[1]) > 100:
        raise ValueError(f"expected a share of at most 100 %, got {text!r}")
    return Share(float(Decimal(match[1]) / 100))


def format_duration(seconds: float) -> str:
    """Return `seconds` (0 or more) in the largest unit that needs no fraction: 300 is "5m"."""
    exact = Decimal(repr(seconds))
    for unit, size in _SECONDS.items():
        if exact % size == 0 and (exact or unit == "s"):
            return f"{_plain(exact / size)}{unit}"
    return f"{_plain(exact)}s"


def format_size(size: int) -> str:
    """Return `size` bytes (0 or more) in the shortest way that is exact: 1048576 is "1MiB"."""
    texts = [f"{size // unit}{name}" for name, unit in _BYTES.items() if size % unit == 0]
    return min((text for text in texts if size or text == "0B"), key=len)


def format_rate(per_s: float) -> str:
    """Return a rate in the first of /s, /m, /h, /d that needs no fraction: 0.5 is "30/m"."""
    for unit in ("s", "m", "h", "d"):
        text = f"{round(per_s * float(_SECONDS[unit]))}/{unit}"
        if parse_rate(text) == per_s:
            return text
    return f"{_plain(Decimal(repr(per_s)))}/s"


def format_share(share: Share) -> str:
    """Return `share` in percent: a fraction of 0.1 is "10%"."""
    return f"{_plain(Decimal(repr(share.fraction)) * 100)}%"


def _split(pattern: re.Pattern[str], text: str, what: str) -> tuple[str, str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {what} with its unit, got {text!r}")
    return match[1], match[2]


def _plain(number: Decimal) -> str:
    """Return `number` without exponent and without zeros at the end of its fraction."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
