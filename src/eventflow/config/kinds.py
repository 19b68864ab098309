"""The kinds of values a setting can have: how each is read, checked, shown and documented.

A kind stands in the annotation of a setting (see `settings`). It says what it expects, and
nothing about where the value stood or what it was: the reader adds that, so that no kind can
leak a secret into a message.
"""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from eventflow.errors import did_you_mean


class Unfit(Exception):
    """A value is not what its kind expects."""

    def __init__(self, expected: str, hint: str = "", *, hide: bool = False) -> None:
        super().__init__(expected, hint)
        self.expected = expected
        """What was expected, for after that word."""
        self.hint = hint
        """What may have been meant. Repeats part of the value: not for values of variables."""
        self.hide = hide
        """The value holds something that must not be shown."""


class Kind(ABC):
    """How one kind of value is written."""

    suffix: ClassVar[str] = ""
    """Unit at the end of the names in Python, which names in TOML don't have."""
    secret: ClassVar[bool] = False
    """Never show such a value."""
    type_name: ClassVar[str]
    """What the reference calls it."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """What is expected, for messages and for the reference."""

    @abstractmethod
    def read(self, raw: object) -> Any:
        """Return the value that `raw`, from TOML, means.

        Raises:
            Unfit: it is of another type, or out of range.
        """

    @abstractmethod
    def write(self, value: Any) -> str:
        """Return `value` as it is written in TOML."""

    def from_text(self, text: str) -> object:
        """Return what a variable of the environment holds, as TOML would give it."""
        return text


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number of something."""

    least: int
    most: int
    unit: str = ""

    type_name: ClassVar[str] = "integer"

    @property
    def expected(self) -> str:
        """The range."""
        return f"{self.least} to {self.most} {self.unit}".rstrip()

    def read(self, raw: object) -> int:
        """Take integers in the range; true and false are none."""
        if not isinstance(raw, int) or isinstance(raw, bool) or not self.least <= raw <= self.most:
            raise Unfit(self.expected)
        return raw

    def write(self, value: int) -> str:
        """Group digits as in 10_000."""
        return f"{value:_}" if value >= 10_000 and self.unit else str(value)

    def from_text(self, text: str) -> object:
        """Read it as TOML does."""
        return toml_value(text)


@dataclass(frozen=True)
class Odd(Integer):
    """An odd number of something: of what votes."""

    @property
    def expected(self) -> str:
        """All of them."""
        *first, last = (str(number) for number in range(self.least, self.most + 1, 2))
        return f"{', '.join(first)} or {last} {self.unit}".rstrip()

    def read(self, raw: object) -> int:
        """Take the odd integers of the range; `least` is one of them."""
        number = super().read(raw)
        if number % 2 == 0:
            raise Unfit(self.expected)
        return number


@dataclass(frozen=True)
class Number(Kind):
    """A number without a unit."""

    least: float
    most: float

    type_name: ClassVar[str] = "number"

    @property
    def expected(self) -> str:
        """The range."""
        return f"{self.least:g} to {self.most:g}"

    def read(self, raw: object) -> float:
        """Take floats and integers in the range; nan is in none."""
        if not isinstance(raw, int | float) or isinstance(raw, bool):
            raise Unfit(self.expected)
        if not self.least <= raw <= self.most:
            raise Unfit(self.expected)
        return float(raw)

    def write(self, value: float) -> str:
        """Write it as a float."""
        return repr(float(value))

    def from_text(self, text: str) -> object:
        """Read it as TOML does."""
        return toml_value(text)


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    type_name: ClassVar[str] = "word"

    @property
    def expected(self) -> str:
        """All words."""
        *some, last = (f'"{word}"' for word in self.words)
        return f"{', '.join(some)} or {last}" if some else last

    def read(self, raw: object) -> str:
        """Take one of the words."""
        if not isinstance(raw, str):
            raise Unfit(self.expected)
        if raw not in self.words:
            meant = did_you_mean(raw, self.words)
            raise Unfit(self.expected, f".{meant}" if meant else "")
        return raw

    def write(self, value: str) -> str:
        """Write the word."""
        return f'"{value}"'


@dataclass(frozen=True)
class Flag(Kind):
    """Yes or no."""

    type_name: ClassVar[str] = "boolean"

    @property
    def expected(self) -> str:
        """Both."""
        return "true or false"

    def read(self, raw: object) -> bool:
        """Take only TOML's own booleans."""
        if not isinstance(raw, bool):
            raise Unfit(self.expected)
        return raw

    def write(self, value: bool) -> str:  # noqa: FBT001  # a value, not an option
        """Write it as TOML does."""
        return "true" if value else "false"

    def from_text(self, text: str) -> object:
        """Read it as TOML does."""
        return toml_value(text)


def toml_value(text: str) -> object:
    """Return `text` read as one TOML value; `text` itself where it is none."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if len(found) == 1 else text
