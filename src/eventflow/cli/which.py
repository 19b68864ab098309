"""Which deliveries are meant: the same options wherever many can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from eventflow.cli.asking import Asked
from eventflow.cli.stop import Stop
from eventflow.errors import did_you_mean

Listed = Literal["retrying", "parked", "dead"]
Kept = Literal["parked", "dead"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Which:
    """Filters beside the state; what is empty does not restrict."""

    topic: Annotated[str, Parameter(metavar="TOPIC", help="of this topic")] = ""
    reason: Annotated[
        str, Parameter(metavar="REASON", help="why it is there, such as permanent")
    ] = ""
    cause: Annotated[
        str, Parameter(metavar="CAUSE", help='of its last attempt, such as "http 503"')
    ] = ""
    fingerprint: Annotated[
        str, Parameter(metavar="PRINT", help="of its last failure, as `eventflow groups` shows it")
    ] = ""
    type: Annotated[
        str, Parameter(metavar="TYPE", help="event type; * within one segment, ** across")
    ] = ""
    text: Annotated[
        str,
        Parameter(
            name=("--text", "-q"),
            metavar="TEXT",
            help="found in id, source, subject or the last error",
        ),
    ] = ""

    def members(self, state: str | None = None) -> dict[str, str]:
        """Return the filter as the HTTP interface has it."""
        given = {
            "state": state,
            "topic": self.topic,
            "reason": self.reason,
            "cause": self.cause,
            "fingerprint": self.fingerprint,
            "type": self.type,
            "q": self.text,
        }
        return {name: value for name, value in given.items() if value}


async def check_topic(asked: Asked, name: str) -> None:
    """See whether there is such a topic. Asked only where nothing was found: it may be misspelt.

    Raises:
        Stop: there is none, or was never.
    """
    if not name:
        return
    listed = (await asked.ask("GET", "/v1/topics")).get("topics", [])
    known = names_of(listed)
    if name not in known:
        raise Stop(f"{asked.name}: there is no topic {name!r}.{did_you_mean(name, known)}")


def names_of(topics: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the topics that a node lists."""
    return [str(topic.get("name")) for topic in topics]


def counted(number: int, one: str = "delivery", many: str = "deliveries") -> str:
    """Return "1 delivery", "1,204 deliveries"."""
    return f"{number:,} {one if number == 1 else many}"
