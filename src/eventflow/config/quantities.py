"""The kinds of values that carry a unit: spans of time, amounts of data, shares and rates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from eventflow.config import units
from eventflow.config.kinds import Kind, Unfit
from eventflow.config.units import Share

_DIGITS = re.compile(r"[0-9]{1,15}(\.[0-9]{1,3})?")


@dataclass(frozen=True)
class Duration(Kind):
    """A time span, in seconds."""

    least_s: float
    most_s: float

    suffix: ClassVar[str] = "_s"
    type_name: ClassVar[str] = "duration"

    @property
    def expected(self) -> str:
        """The range."""
        return f"{units.format_duration(self.least_s)} to {units.format_duration(self.most_s)}"

    def read(self, raw: object) -> float:
        """Take "250ms", "5m"."""
        what = 'a duration such as "250ms" or "5m"'
        try:
            seconds = units.parse_duration(_with_unit(raw, what, "{}s", "{}m"))
        except ValueError:
            raise Unfit(what) from None
        if not self.least_s <= seconds <= self.most_s:
            raise Unfit(self.expected)
        return seconds

    def write(self, value: float) -> str:
        """Write it in the largest unit."""
        return f'"{units.format_duration(value)}"'


@dataclass(frozen=True)
class Size(Kind):
    """An amount of data, in bytes."""

    least: int
    most: int

    suffix: ClassVar[str] = "_bytes"
    type_name: ClassVar[str] = "size"

    @property
    def expected(self) -> str:
        """The range."""
        return f"{units.format_size(self.least)} to {units.format_size(self.most)}"

    def read(self, raw: object) -> int:
        """Take "512KiB", "10GB"."""
        what = 'a size such as "512KiB" or "1MiB"'
        try:
            size = units.parse_size(_with_unit(raw, what, "{}KiB", "{}MiB"))
        except ValueError:
            raise Unfit(what) from None
        if not self.least <= size <= self.most:
            raise Unfit(self.expected)
        return size

    def write(self, value: int) -> str:
        """Write it in the largest unit."""
        return f'"{units.format_size(value)}"'


@dataclass(frozen=True)
class ShareOrRate(Kind):
    """A share of what a topic delivers, or so many per second."""

    most_per_s: float

    type_name: ClassVar[str] = "share or rate"

    @property
    def expected(self) -> str:
        """The ranges."""
        return f'above "0%" to "100%", or above "0/s" to "{self.most_per_s:.0f}/s"'

    def read(self, raw: object) -> Share | float:
        """Take "10%", "100/s"."""
        what = 'a share such as "10%" or a rate such as "100/s"'
        text = _with_unit(raw, what, *_percent(raw), "{}/s")
        try:
            value = units.parse_share(text) if text.endswith("%") else units.parse_rate(text)
        except ValueError:
            raise Unfit(what) from None
        number = value.fraction if isinstance(value, Share) else value
        if not 0 < number <= (1 if isinstance(value, Share) else self.most_per_s):
            raise Unfit(self.expected)
        return value

    def write(self, value: Share | float) -> str:
        """Write it with its unit."""
        shown = units.format_share(value) if isinstance(value, Share) else units.format_rate(value)
        return f'"{shown}"'


def _with_unit(raw: object, what: str, *forms: str) -> str:
    """Return `raw` if it is a text with a unit.

    Raises:
        Unfit: it is none. For a bare number the hint shows `forms` of it.
    """
    number = _bare_number(raw)
    if number is not None:
        shown = [f'"{form.format(number)}"' for form in forms]
        raise Unfit(what, f"; write {' or '.join(shown)}?")
    if not isinstance(raw, str):
        raise Unfit(what)
    return raw


def _bare_number(raw: object) -> int | float | None:
    """Return the number that stands where one with a unit is due; None: it is none.

    Only numbers that can be repeated in a message with a unit behind them.
    """
    if isinstance(raw, str) and _DIGITS.fullmatch(raw):
        return float(raw) if "." in raw else int(raw)
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return None
    return raw if raw == 0 or 0.001 <= raw < 10**15 else None


def _percent(raw: object) -> tuple[str, ...]:
    """Return how a bare number may be meant as a share: 0.1 and 10 are both 10 %."""
    number = _bare_number(raw)
    if isinstance(number, float) and number <= 1:
        return (units.format_share(Share(number)),)
    return ("{}%",) if number is not None and number <= 100 else ()
