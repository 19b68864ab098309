"""A how-to page as what a reader does with it: files to write, commands to run, what they print.

    ```toml title="eventflow.toml"    a file to write; so with python, json, text … Folders are made
    ```bash                           commands, run in order in one shell that stays the same
    ```text                           right after them: what they print; … stands for anything in
                                      its line, alone in a line for any number of lines
    ```text node                      what the processes in the background have printed by then
    ```python, ```toml                without a title: a piece to look at; it must be well formed

Words after `bash`:

    eventually    run them again until they succeed and print what is expected
    status=1      the last command ends with this exit status
    ready=8080    then wait until somebody listens there: for what is started with `&`

A command line that ends in `&` runs in the background, and is ended with the page. `pip install`
lines are not run: the environment of the tests has it all. The ports of a page are replaced by free
ones, 8080 also where a page only relies on it; a second node is told its port with `--port`. At
5432 a page finds a PostgreSQL with a role and a database `shop`, password `change-me`.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FENCED = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_PORT = re.compile(
    r"(?:(?:127\.0\.0\.1|localhost):|\bport\s*=\s*|\bready=|--port[ =]|--listen \S*:)(\d{4,5})\b"
)
DEFAULT_PORT: Final = 8080
"""Where a node listens that is told nothing."""
_WORDS: Final = {"status", "ready", "eventually"}


class NotAPage(Exception):
    """A page that can't be followed: where and why."""


@dataclass(frozen=True)
class File:
    """A file to write."""

    line: int
    name: str
    text: str


@dataclass(frozen=True)
class Commands:
    """Commands to run, and what is expected of them."""

    line: int
    text: str
    status: int = 0
    ready: int | None = None
    """A port that somebody listens on afterwards."""
    eventually: bool = False
    prints: str | None = None
    """What they print; None: whatever it is."""


@dataclass(frozen=True)
class Said:
    """What the processes in the background print."""

    line: int
    text: str


Step = File | Commands | Said


def steps(path: Path) -> list[Step]:
    """Return what a reader of the page does, in order.

    Raises:
        NotAPage: a block is not as the top of this file says.
    """
    page = path.read_text()
    found: list[Step] = []
    behind = ""
    end = 0
    for match in _FENCED.finditer(page):
        language, info, text = match.groups()
        line = page.count("\n", 0, match.start()) + 1
        where = f"{path.name}:{line}"
        between, end = page[end : match.start()], match.end()
        if language == "text" and not info.startswith("title="):
            _expect(found, text, info, where, line, behind="" if between.strip() else behind)
        else:
            step = _step(language, info, text, where, line)
            found += [] if step is None else [step]
        behind = language
    return found


def ports(path: Path) -> set[int]:
    """Return the ports that a page names, and the one a node takes by itself."""
    return {DEFAULT_PORT, *map(int, _PORT.findall(path.read_text()))}


def moved(step: Step, to: Mapping[int, int]) -> Step:
    """Return the step with other ports: those of the page may be taken where the tests run."""

    def other(text: str) -> str:
        for before, after in to.items():
            text = re.sub(rf"\b{before}\b", str(after), text)
        return text

    if not isinstance(step, Commands):
        return replace(step, text=other(step.text))
    return replace(
        step,
        text=other(step.text),
        prints=None if step.prints is None else other(step.prints),
        ready=None if step.ready is None else to[step.ready],
    )


def fits(expected: str, printed: str) -> bool:
    """Return whether something printed is as expected.

    … stands for anything in its line, alone in a line for any number of lines. Blanks at the ends
    of lines do not count.
    """
    pattern = ""
    for line in _trimmed(expected).splitlines():
        words = ".*".join(re.escape(part) for part in line.split("…"))
        pattern += r"(?:.*\n)*" if line.strip() == "…" else words + r"\n"
    return re.fullmatch(pattern, _trimmed(printed) + "\n") is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _expect(found: list[Step], text: str, info: str, where: str, line: int, *, behind: str) -> None:
    if info == "node":
        found.append(Said(line, text))
        return
    if info:
        raise NotAPage(f"{where}: expected ```text or ```text node, got ```text {info}")
    last = found[-1] if found else None
    if behind != "bash" or not isinstance(last, Commands):
        raise NotAPage(f"{where}: ```text stands right after the ```bash whose output it shows")
    found[-1] = replace(last, prints=text)


def _step(language: str, info: str, text: str, where: str, line: int) -> Step | None:
    words = dict(word.partition("=")[::2] for word in shlex.split(info))
    if language == "bash":
        if set(words) - _WORDS:
            raise NotAPage(f"{where}: bash: expected {sorted(_WORDS)}, got {info!r}")
        ready = words.get("ready")
        return Commands(
            line,
            text,
            int(words.get("status", 0)),
            None if ready is None else int(ready),
            "eventually" in words,
        )
    if set(words) - {"title"}:
        raise NotAPage(f'{where}: {language}: expected title="FILE" or nothing, got {info!r}')
    try:
        if language == "python":
            ast.parse(text)
        elif language == "toml":
            tomllib.loads(text)
    except (SyntaxError, tomllib.TOMLDecodeError) as error:
        raise NotAPage(f"{where}: this is no {language}: {error}") from error
    return File(line, words["title"], text) if "title" in words else None
