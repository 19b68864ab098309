"""The documents agree with each other: the index with the ADRs, every link with a file."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ADRS = sorted(DOCS.glob("adr/[0-9]*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

INDEXED = re.compile(r"^\| \[(\d{4})\]\((.+?)\) \| (.+?) \| (.+?) \|$", re.MULTILINE)
HEADED = re.compile(r"\A# (\d{4})  (.+)\n\nStatus +(\w+) +Date +\d{4}-\d\d-\d\d\n")
SECTIONS = (
    "The question",
    "What we know",
    "Choices",
    "So",
    "How we notice it was wrong",
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """Return a page without its blocks of code, in which brackets mean other things."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def headed(path: Path) -> tuple[str, str, str, str]:
    """Return number, file, title and status as an ADR itself says them."""
    match = HEADED.match(path.read_text())
    assert match, f"{name(path)} does not begin as the template in docs/adr/README.md"
    number, title, status = match.groups()
    return number, path.name, title, status


def test_the_index_lists_each_adr_as_it_calls_itself() -> None:
    """Number, file, title and status; in order, none missing, none that does not exist."""
    indexed = INDEXED.findall(prose(DOCS / "adr" / "README.md"))

    assert indexed == [headed(path) for path in ADRS]
    assert all(before[0] < after[0] for before, after in pairwise(indexed))


def test_an_adr_says_what_the_template_asks() -> None:
    for path in ADRS:
        sections = tuple(re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE))
        assert sections == SECTIONS, name(path)
        assert path.name[:4] == headed(path)[0]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose(path))
    local = [target for target in targets if not re.match(r"\w+:", target)]

    assert [target for target in local if not (path.parent / target).exists()] == []


def test_the_map_shows_every_folder() -> None:
    folders = {path.name for path in DOCS.iterdir() if path.is_dir()}

    assert folders - set(re.findall(r"`([\w-]+)/`", (DOCS / "README.md").read_text())) == set()


def test_the_map_shows_every_page() -> None:
    """But for ADRs, which have an index of their own, and figures, which are written by runs."""
    linked = set(re.findall(r"\]\(([^)#\s]+)", (DOCS / "README.md").read_text()))
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    there = {page for page in pages if not page.startswith(("adr/", "proof/"))}

    assert there - linked == {"README.md"}
