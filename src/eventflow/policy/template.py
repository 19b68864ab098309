"""Text with expressions in it, such as `Welcome, {{ event.data.name }}!`.

What stands between `{{` and `}}` is CEL; braces and quotes in it are understood, so that
`{{ {'a': 1}['a'] }}` and `{{ '}}' }}` are what they look like. The rest is text as it stands; a
literal `{{` is written `{{ '{{' }}`.

A value becomes text as in JSON, but for text itself (without quotes), null (nothing at all) and
times (RFC 3339).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from eventflow.errors import ConfigError
from eventflow.policy.expression import Expression, compile_expression

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventflow.policy.expression import Names

_OPENING = "{{"
_CLOSING = "}}"

# CEL's string literals, raw ones before those that know escapes; else a character.
_TOKEN = re.compile(
    r"""
      \b (?:[rR][bB]?|[bB][rR]) (?: '[^'\n]*' | "[^"\n]*" )
    | '''(?:\\.|[^\\])*?''' | \"""(?:\\.|[^\\])*?\"""
    | '(?:\\.|[^'\\\n])*' | "(?:\\.|[^"\\\n])*"
    | .
    """,
    re.VERBOSE | re.DOTALL,
)


class Template:
    """A compiled text: see `compile_template`."""

    __slots__ = ("parts", "text")

    def __init__(self, text: str, parts: tuple[str | Expression, ...]) -> None:
        self.text = text
        self.parts = parts

    @property
    def is_constant(self) -> bool:
        """Whether it has no expression in it, and so is always the same."""
        return all(isinstance(part, str) for part in self.parts)

    def render(self, names: Names) -> str:
        """Return the text for these names.

        Raises:
            ExpressionError: an expression in it can't be computed.
        """
        return "".join(
            part if isinstance(part, str) else text_of(part.value(names)) for part in self.parts
        )

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def compile_template(text: str) -> Template:
    """Return the template that `text` writes down.

    Raises:
        ConfigError: an expression in it is not CEL, or `{{` is never closed.
    """
    return Template(text, tuple(_parts(text)))


def text_of(value: Any) -> str:
    """Return a value of an expression as text."""
    if value is None:
        return ""
    plain = value if isinstance(value, str) else msgspec.to_builtins(value)
    return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()


def _parts(text: str) -> Iterator[str | Expression]:
    at = 0
    while (opening := text.find(_OPENING, at)) >= 0:
        if opening > at:
            yield text[at:opening]
        start = opening + len(_OPENING)
        end = _end_of_expression(text, start)
        yield compile_expression(text[start:end].strip())
        at = end + len(_CLOSING)
    if at < len(text):
        yield text[at:]


def _end_of_expression(text: str, start: int) -> int:
    """Return where the `}}` stands that ends the expression at `start`."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            if depth == 0 and text.startswith(_CLOSING, token.start()):
                return token.start()
            depth -= 1
    raise ConfigError([f"{text!r}: the {{{{ at character {start - 1} is never closed by }}}}"])
