"""The bodies of mails: Jinja2 in a sandbox, with the names of every expression.

    event       event.type, event.data.name, event.key, ...      delivery    delivery.attempt, ...

A field of the data comes before a method of Python's dict with its name: `event.data.items` is the
order's items, as in CEL. What is not there is an error; `{% if event.subject is defined %}` asks.

A template is its operator's, its data anybody's. So the work of one rendering is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, meta

from eventflow.errors import ConfigError, did_you_mean
from eventflow.sinks.smtp.sandbox import GLOBALS, BodyError, Sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import nodes

NAMES = ("event", "delivery")


class Body:
    """A compiled body: see `compile_body`."""

    def __init__(self, text: str, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._template = sandbox.from_string(text)

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the text for these values of `event` and `delivery`.

        Raises:
            BodyError: it can't be computed, or grows too large.
        """
        sandbox = self._sandbox
        sandbox.steps = 0
        sandbox.size = 0
        pieces: list[str] = []
        try:
            for piece in self._template.generate(**values):
                sandbox.wrote(piece)
                pieces.append(piece)
        except BodyError:
            raise
        except Exception as error:  # a template can raise whatever Python can
            raise BodyError(f"{type(error).__name__}: {error}") from error
        return "".join(pieces)


def compile_body(text: str, *, html: bool = False) -> Body:
    """Return the body that `text` writes down; in HTML what is put in is escaped.

    Raises:
        ConfigError: it is no Jinja2, speaks of a name that does not exist, or of another template.
    """
    sandbox = Sandbox(html=html)
    try:
        tree = sandbox.parse(text)
        body = Body(text, sandbox)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = "" if line is None else f"line {line}: "
        raise ConfigError([f"expected a Jinja2 template: {where}{error}"]) from error
    problems = [*_unknown(tree)]
    if problems:
        raise ConfigError(problems)
    return body


def _unknown(tree: nodes.Template) -> list[str]:
    known = {*NAMES, *GLOBALS}
    problems = [
        f"it speaks of {name!r}; there are {' and '.join(NAMES)}.{did_you_mean(name, NAMES)}"
        for name in sorted(meta.find_undeclared_variables(tree) - known)
    ]
    if [*meta.find_referenced_templates(tree)]:
        problems.append("it speaks of another template; a body stands alone")
    return problems
