"""The registry is complete: each route is documented as it is, and nothing else answers."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.web.samples import event, lines

from eventflow.config import Secret, WebhookSettings
from eventflow.web import problem
from eventflow.web.routes import ROUTES
from eventflow.web.webhooks import compile_webhooks

if TYPE_CHECKING:
    from tests.web.client import Client
    from tests.web.fake import FakeNode

    from eventflow.web.routes import Route

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text()
SECTIONS = {
    section.partition("\n")[0].strip("`"): section
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
}


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


def test_each_route_stands_there_once() -> None:
    assert Counter(map(name, ROUTES)) == Counter(SECTIONS.keys())


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_is_documented_as_it_is(route: Route) -> None:
    """Role, parameters, answers, what it is for, and a line to copy."""
    section = SECTIONS[name(route)]

    assert f"Role: `{route.role}`" in section
    assert route.summary.lower() in section.lower()
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(route.query)
    assert set(re.findall(r"\b([2-5]\d\d)\b", section)) >= set(map(str, route.answers))
    assert re.search(r"^ *curl .*127\.0\.0\.1:8080", section, re.MULTILINE)


GITHUB = WebhookSettings(
    name="github",
    scheme="github",
    secret=(Secret("It's a Secret to Everybody"),),
    type="github.{{ header['x-github-event'] }}",
)
CURLS = re.findall(r"^    (curl .+)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", CURLS)
async def test_a_line_to_copy_works(client: Client, node: FakeNode, line: str) -> None:
    """As curl would send it. What asks for an example's ref may be told that it is unknown."""
    node.webhooks = compile_webhooks([GITHUB])
    words = iter(shlex.split(line)[1:])
    method, body, headers, url = "", b"", {"content-type": "application/x-www-form-urlencoded"}, ""
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-d":
                method, body = method or "POST", next(words).encode()
            case "-T":
                assert next(words).endswith(".ndjson")
                body = lines(event(1), event(2))
            case "-o":
                next(words)
            case "-H":
                header, _, value = next(words).partition(": ")
                headers[header.lower()] = value
            case _:
                url = word
    target = url.removeprefix("http://127.0.0.1:8080")
    answer = await client.send(method or "GET", target, [body] if body else [], headers)

    assert answer.status in (
        {200, 202, 404} if "019abc12" in line or "id=1" in line else {200, 202}
    )
    assert bool(node.accepted) == (target in {"/v1/events", "/v1/webhooks/github"})


def test_every_problem_is_documented() -> None:
    source = "".join(path.read_text() for path in Path(problem.__file__).parent.glob("*.py"))
    codes = set(re.findall(r'code="([a-z-]+)"', source))
    codes |= set(re.findall(r'_stored_nothing\(\d+, "([a-z-]+)"', source))
    codes |= {"unavailable", "stopping"}

    assert set(re.findall(r"^\| `([a-z-]+)` \| \d", PAGE, re.MULTILINE)) == codes


async def test_a_path_there_is_none_of(client: Client) -> None:
    answer = await client.get("/v2/<stats>")

    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["type"] == "urn:eventflow:problem:no-route"
    assert answer.json()["detail"].startswith("'/v2/<stats>' is no route of EventFlow.")


@pytest.mark.parametrize("path", ["/v1/stats/", "/v1/events/", "//v1/stats", ""])
async def test_a_path_is_written_in_one_way(client: Client, path: str) -> None:
    assert (await client.get(path)).status == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/events", "GET, HEAD, POST"),
        ("PUT", "/v1/stats", "GET, HEAD"),
        ("GET", "/v1/deliveries/replay", "POST"),
        ("OPTIONS", "/v1/topics/email/pause", "POST"),
    ],
)
async def test_a_method_it_does_not_know(
    client: Client, method: str, path: str, allowed: str
) -> None:
    answer = await client.send(method, path)

    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["detail"] == f"expected {allowed}, got {method}. Nothing was done."


async def test_a_fault_anywhere_is_500_without_the_inside(
    client: Client, node: FakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.fails = KeyError("secret")
    answer = await client.get("/v1/stats")

    assert answer.status == 500
    assert answer.json()["type"] == "urn:eventflow:problem:fault"
    assert b"secret" not in answer.body
    assert "path=/v1/stats" in caplog.text
    assert "KeyError" in caplog.text
