"""Every how-to page is followed word by word, from an empty folder. How: the top of page.py."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.page import Commands, NotAPage, fits, ports, steps
from tests.e2e.terminal import Failed, follow
from tests.postgres_server import running

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = sorted((Path(__file__).parents[2] / "docs" / "how-to").glob("*.md"))


def followed(page: Path, folder: Path) -> None:
    for name in ("page", "scratch"):
        (folder / name).mkdir()
    with there(page) as servers:
        asyncio.run(follow(page, folder / "page", folder / "scratch", servers))


@contextmanager
def there(page: Path) -> Iterator[dict[int, int]]:
    """Run the PostgreSQL that a page takes for given, by the port it names: 5432."""
    if 5432 not in ports(page):
        yield {}
        return
    with running() as server:
        server.administer("CREATE ROLE shop LOGIN PASSWORD 'change-me'")
        server.administer("CREATE DATABASE shop OWNER shop")
        yield {5432: server.port}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    followed(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_one_that_can_be_followed(page: Path) -> None:
    shown = [step for step in steps(page) if isinstance(step, Commands)]

    assert any(step.prints for step in shown), "a page shows at least once what a command prints"


# ------------------------------------------------------------- the follower itself


def written(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text.replace("'''", "```"))
    return page


GOOD = """
'''python title="shop/say.py"
import sys
print("said", *sys.argv[1:])
'''
'''bash
cd shop
export WORD=hello
'''
'''bash
python say.py "$WORD" \\
  again
sleep 0.2 && echo late > late.txt &
'''
'''text
said hello …
'''
'''bash eventually
cat late.txt
'''
'''text
late
'''
'''bash ready=9123
python -m http.server --bind 127.0.0.1 9123 &
'''
'''bash
python -c "from urllib.request import urlopen; urlopen('http://127.0.0.1:9123/say.py')"
'''
'''text node
…GET /say.py…
'''
'''bash status=3
exit_with() { return "$1"; }
exit_with 3
'''
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_files_shell_and_background_are_as_a_reader_has_them(tmp_path: Path) -> None:
    followed(written(tmp_path, GOOD), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("'''bash\necho a\n'''\n'''text\nb\n'''\n", "page.md:1: it printed something else"),
        ("\n'''bash\nfalse\ntrue\n'''\n", "page.md:2: 1: false"),
        ("'''bash status=2\nfalse\n'''\n", "exit status 1"),
        ("'''bash\nno-such-command\n'''\n", "no-such-command: command not found"),
    ],
    ids=["output", "failure in between", "status", "unknown"],
)
def test_a_page_that_is_wrong_fails(page: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(Failed) as caught:
        followed(written(tmp_path, page), tmp_path)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("'''text\nb\n'''\n", "right after"),
        ("'''bash\ntrue\n'''\n\nAnd:\n\n'''text\nb\n'''\n", "right after"),
        ("'''bash soon\ntrue\n'''\n", "bash: expected"),
        ("'''python\ndef\n'''\n", "this is no python"),
        ("'''toml title='a.toml'\n[a\n'''\n", "this is no toml"),
    ],
)
def test_a_page_that_cannot_be_followed_is_named(page: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(NotAPage, match=said):
        steps(written(tmp_path, page))


def test_what_is_printed_is_held_against_what_is_shown() -> None:
    assert fits("a\nb … d\n", "a  \nb c d")
    assert fits("a\n…\nd", "a\nb\nc\nd")
    assert fits("a\n…\nd", "a\nd")
    assert not fits("a … c", "a b\nc")
    assert not fits("a\nb", "a\nb\nc")
    assert not fits("a.c", "abc")


def test_the_ports_of_a_page_are_found(tmp_path: Path) -> None:
    text = "curl localhost:9001; --port 9002 ready=9003\nport = 9004\n 9005 http://127.0.0.1:9006/"

    assert ports(written(tmp_path, text)) == {8080, 9001, 9002, 9003, 9004, 9006}
