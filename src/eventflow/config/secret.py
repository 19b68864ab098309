"""A text that is used but never shown."""

from __future__ import annotations

from typing import Final, final

MASK: Final = "***"


@final
class Secret:
    """A password, token or key. Printed, formatted or logged it is `***`.

    Only `reveal()` gives the text: wherever a secret leaves, that word stands in the code.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)
