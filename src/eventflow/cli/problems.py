"""An answer that says no: what it says, and what to tell the user."""

from __future__ import annotations

import aiohttp

from eventflow.cli.node import Node
from eventflow.cli.stop import Stop
from eventflow.client import answers

MOST_BYTES = 1_000_000


class Problem(answers.Problem):
    """Problem details (RFC 9457), with words for the user."""

    def end(self, node: Node, not_done: str) -> Stop:
        """Return the end of a command that was answered so.

        Args:
            node: Who answered.
            not_done: What was not done: "nothing was sent".
        """
        return ending(self, node, not_done)


async def problem_of(response: aiohttp.ClientResponse) -> Problem:
    """Return what an answer says is wrong."""
    body = await response.content.read(MOST_BYTES)
    found = answers.problem_of(response.status, body, response.headers.get("retry-after"))
    return Problem(found.status, found.detail, found.retry_after_s, found.errors, found.members)


def ending(problem: answers.Problem, node: Node, not_done: str) -> Stop:
    """Return the end of a command that was answered with a problem.

    Args:
        problem: The answer.
        node: Who answered.
        not_done: What was not done: "nothing was sent".
    """
    match problem.status:
        case 401:
            known = "does not know this token" if node.token else "asks for a token"
            text = (
                f"{node.url} {known}; {not_done}. "
                "Give the secret of one of its [server] tokens with --token or EVENTFLOW_TOKEN."
            )
        case 400 | 403 | 413 | 422 | 429 | 500 | 503:
            text = f"{node.url}: {problem.detail}"
        case _:
            text = (
                f"{node.url} answered {problem.status}; {not_done}. Is it an EventFlow node? "
                "Name one with --url or EVENTFLOW_URL."
            )
    return Stop(text)
