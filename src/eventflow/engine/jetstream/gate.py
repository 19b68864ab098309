"""What the servers must be like for a node's promises to hold: judged here, measured elsewhere.

    what         refused                          doubtful
    server       older than 2.12                  older than 2.15
    API level    below 2
    sync         off, where "fsync" is claimed    off, where "os" is; nobody could be asked
    replicas     fewer servers than asked for     some of them away or behind
    max_payload  below max_event + 128 KiB
    clock        more than 10 s apart             more than 1 s
    a stream     what can't be put right          what was put right; what differs meanwhile

All of it is pure: a verdict says what was expected, what was found, and what to do.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from eventflow.clock import rfc3339
from eventflow.engine.jetstream import names
from eventflow.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GOOD: Final = "good"
DOUBTFUL: Final = "doubtful"
"""It works; something promised, or likely meant, does not hold."""
REFUSED: Final = "refused"
"""A node does not start so: it would lose what it promises to keep, or could not keep anything."""

OLDEST_SERVER: Final = (2, 12)
"""Major and minor of the first server with atomic batches."""
GOOD_SERVER: Final = (2, 15)
"""The first one that commits what three servers hold, and sync, in groups."""
LEAST_API_LEVEL: Final = 2
ENVELOPE_BYTES: Final = 128 * 2**10
"""What a message holds beside the data of its event: attributes, history, headers."""
CLOCK_DOUBTFUL_S: Final = 1.0
CLOCK_REFUSED_S: Final = 10.0
"""A third of a lease."""

_NS: Final = 1e9
_TIMES: Final = {"max_age", "duplicate_window", "ack_wait", "inactive_threshold", "max_expires"}
"""Fields in nanoseconds."""

STREAM_REST: Final[Mapping[str, Any]] = {
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "max_consumers": -1,
    "discard_new_per_subject": False,
    "no_ack": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "persist_mode": "default",
    "mirror": None,
    "sources": None,
    "subject_transform": None,
    "consumer_limits": {},
}
"""Fields of a stream that must be as a server has them by itself, unless they are declared."""

CONSUMER_REST: Final[Mapping[str, Any]] = {
    "deliver_policy": "all",
    "replay_policy": "instant",
    "headers_only": False,
    "mem_storage": False,
    "num_replicas": 0,
    "inactive_threshold": 0,
    "pause_until": None,
    "backoff": None,
    "rate_limit_bps": 0,
    "max_batch": 0,
    "max_expires": 0,
    "max_bytes": 0,
}
"""The same of a consumer."""

_FOLLOWING: Final = {
    "max_msgs",
    "duplicate_window",
    "num_replicas",
    "ack_wait",
    "max_ack_pending",
}
"""Fields that follow a node's configuration."""


_FIXED: Final = {
    "storage",
    "retention",
    "persist_mode",
    "sealed",
    "deny_delete",
    "deny_purge",
    "mirror",
    "ack_policy",
    "deliver_policy",
}
"""Fields that servers change for nobody: a node would not start."""

MISSING: Final = "is not there yet: the node makes it"
SOON_S: Final = 7 * 86_400.0
"""How long before they end credentials are to be renewed."""


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """One thing that was looked at."""

    what: str
    state: str
    """"good", "doubtful" or "refused"."""
    found: str
    """What is, and where it is not good what was expected."""
    advice: str = ""
    """What to do; empty where it is good."""

    def __str__(self) -> str:
        return f"{self.what}: {self.found}. {self.advice}".rstrip(" ")


class Difference(msgspec.Struct, frozen=True, gc=False):
    """A field that is not as it was declared."""

    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.field} expected {_shown(self.field, self.expected)}, found " + _shown(
            self.field, self.found
        )


class Member(msgspec.Struct, frozen=True, gc=False):
    """A server that holds a stream, its leader left out."""

    name: str
    current: bool
    offline: bool = False


def server(where: str, version: str) -> Verdict:
    """Judge the version of a server, as it says it."""
    what, found = "server", f"nats-server {version} at {where}"
    numbers = _numbers(version)
    if numbers < OLDEST_SERVER:
        return Verdict(
            what,
            REFUSED,
            f"expected 2.12 or later, which stores batches as a whole, got {found}",
            "Update the servers, one after the other",
        )
    if numbers < GOOD_SERVER:
        return Verdict(
            what,
            DOUBTFUL,
            f"{found}; 2.15 or later is recommended, which stores much faster",
            "Update the servers, one after the other",
        )
    return Verdict(what, GOOD, found)


def connection(place: str, who: str, cipher: str | None) -> Verdict:
    """Judge how a node speaks to the servers.

    Args:
        place: Of the servers, without a user.
        who: How it logs in, as text.
        cipher: What the connection is encrypted with; None: nothing.
    """
    what, found = "NATS servers", f"{place}, as {who}"
    if cipher is not None:
        return Verdict(what, GOOD, f"{found}, encrypted ({cipher})")
    if all(_on_this_machine(one) for one in place.split(",")):
        return Verdict(what, GOOD, f"{found}, on this machine")
    return Verdict(
        what,
        DOUBTFUL,
        f"{found}, in the clear: whoever is on the way reads events, and a password",
        "Set tls {} in the servers' configuration, and write tls:// in [engine] url",
    )


def credentials(ends_at: float, now: float) -> Verdict:
    """Judge how long a user's JWT still counts, in seconds since 1970; 0: it does not end."""
    what, left_s = "credentials", ends_at - now
    if ends_at <= 0:
        return Verdict(what, GOOD, "do not end")
    if left_s <= 0:
        return Verdict(what, REFUSED, f"ended at {rfc3339(ends_at)}", "Put new ones there")
    found = f"end in {left_s / 86_400:.0f} days, at {rfc3339(ends_at)}"
    if left_s > SOON_S:
        return Verdict(what, GOOD, found)
    return Verdict(what, DOUBTFUL, found, "Put new ones there: the node needs no restart for it")


def api(level: int) -> Verdict:
    """Judge JetStream's API level: in a cluster the least of all its servers."""
    if level < LEAST_API_LEVEL:
        return Verdict(
            "API level",
            REFUSED,
            f"expected {LEAST_API_LEVEL} or higher, got {level}",
            "Update all servers of the cluster to 2.12 or later",
        )
    return Verdict("API level", GOOD, str(level))


def syncing(lazy: Sequence[str] | None, durability: str) -> Verdict:
    """Judge whether servers sync before they answer (G1).

    Args:
        lazy: Those that do not; None: nobody could be asked.
        durability: What the configuration claims: "fsync" or "os".
    """
    what = "sync"
    if lazy is None:
        return Verdict(
            what,
            DOUBTFUL,
            "not known, since [engine] monitor is not set. With their default sync_interval "
            "servers lose in a power cut what they confirmed in the last two minutes",
            "Set sync_interval: always there, and [engine] monitor to their monitoring ports",
        )
    if not lazy:
        return Verdict(what, GOOD, "servers sync before they answer (sync_interval: always)")
    found = f"sync_always off at {', '.join(lazy)}: a power cut loses what they confirmed"
    if durability == "fsync":
        return Verdict(
            what,
            REFUSED,
            f"expected servers that sync before they answer, got {found}",
            'Set sync_interval: always there, or [engine] durability to "os"',
        )
    return Verdict(what, DOUBTFUL, found, "Set sync_interval: always there")


def silent(where: str, why: str) -> Verdict:
    """Judge a monitoring port that does not answer."""
    return Verdict(
        "monitor",
        DOUBTFUL,
        f"{where} does not answer as a NATS server does ({why}): what it keeps is not known",
        "Start that server, or correct [engine] monitor",
    )


def unread(stream: str, what: str) -> Verdict:
    """Judge a message that this release can't read."""
    advice = (
        "It stays where it is, for nodes of the release that wrote it: run one, or go on to that "
        "release"
    )
    return Verdict(f"messages of {stream}", DOUBTFUL, what, advice)


def payload(max_payload: int, max_event: int) -> Verdict:
    """Judge whether the largest event fits into a message.

    Args:
        max_payload: What servers take, in bytes.
        max_event: What this node takes, in bytes: `[common] max_event`.
    """
    what, needed = "max_payload", max_event + ENVELOPE_BYTES
    if max_payload >= needed:
        return Verdict(what, GOOD, f"{max_payload:,} bytes, {needed:,} are needed")
    return Verdict(
        what,
        REFUSED,
        f"expected {needed:,} bytes or more ([common] max_event {max_event:,} and 128 KiB for what "
        f"goes with it), got {max_payload:,}",
        f"Set max_payload: {_mebibytes(needed)}MB in the servers' configuration, or lower "
        f"[common] max_event to {_size(max_payload - ENVELOPE_BYTES)}",
    )


def clock(where: str, ahead_s: float, unsure_s: float) -> Verdict:
    """Judge how far apart the clocks of this node and a server are.

    Args:
        where: Which server.
        ahead_s: How much the server's is ahead.
        unsure_s: How much of it may be the time that the answer took.
    """
    what, apart_s = "clock", max(0.0, abs(ahead_s) - unsure_s)
    if apart_s <= CLOCK_DOUBTFUL_S:
        return Verdict(what, GOOD, f"within {CLOCK_DOUBTFUL_S:g} s of {where}")
    direction = "ahead of" if ahead_s > 0 else "behind"
    return Verdict(
        what,
        REFUSED if apart_s > CLOCK_REFUSED_S else DOUBTFUL,
        f"expected the same time on all machines, got {where} {apart_s:.1f} s {direction} "
        "this node",
        "Run chrony or systemd-timesyncd on all of them",
    )


def servers(asked: int, clustered: bool, there: int | None = None) -> Verdict:  # noqa: FBT001  # a fact
    """Judge whether there are as many servers as each stream is to be held by.

    Args:
        asked: `[engine] replicas`.
        clustered: Whether the servers form a cluster.
        there: How many; None: they do not say.
    """
    what, found = "replicas", "one server alone" if not clustered else f"{there} servers"
    if asked > 1 and (not clustered or (there is not None and there < asked)):
        return Verdict(
            what,
            REFUSED,
            f"expected {asked} servers, as [engine] replicas says, got {found}",
            "Let the servers form a cluster, or lower [engine] replicas",
        )
    if asked == 1 and clustered:
        return Verdict(
            what,
            DOUBTFUL,
            "1, while the servers form a cluster: when the one that holds a stream is away, it is",
            "Set [engine] replicas to 3",
        )
    if asked == 1:
        return Verdict(what, GOOD, "1: nothing is accepted while the server is away")
    return Verdict(what, GOOD, f"{asked}" if there is None else f"{asked}, of {found}")


def unplaced(asked: int) -> Verdict:
    """Judge servers of a cluster that find no places for all copies of a stream.

    Args:
        asked: `[engine] replicas`.
    """
    return Verdict(
        "replicas",
        REFUSED,
        f"expected {asked} servers that are up and have room, as [engine] replicas says, got fewer",
        "Start the servers that are away, give them room, or lower [engine] replicas",
    )


def members(stream: str, asked: int, others: Sequence[Member]) -> Verdict:
    """Judge whether all servers that are to hold a stream do."""
    what = f"stream {stream}"
    well = 1 + sum(one.current and not one.offline for one in others)
    if well >= asked:
        return Verdict(what, GOOD, f"on {asked} of {asked} servers")
    away = [
        f"{one.name} {'is away' if one.offline else 'is behind'}"
        for one in others
        if one.offline or not one.current
    ]
    return Verdict(
        what,
        DOUBTFUL,
        f"expected it on {asked} servers, got {well}: {', '.join(away) or 'there are no others'}",
        "Look after these servers: until they have caught up fewer may be lost",
    )


def untold(node: str, messages: int) -> Verdict:
    """Judge audit rows that wait on the servers for a node which does not run."""
    some = "message" if messages == 1 else "messages"
    return Verdict(
        f"audit rows of {node}",
        DOUBTFUL,
        f"{messages:,} {some} of them in {names.AUDIT}, and that node does not run: it alone "
        "writes them into its chain",
        f'Start a node with [engine] node = "{node}" once more, while PostgreSQL answers',
    )


def differences(
    declared: Mapping[str, Any], found: Mapping[str, Any], rest: Mapping[str, Any]
) -> tuple[Difference, ...]:
    """Return in what a stream or consumer is not as it was declared.

    Args:
        declared: Its configuration, as it was asked for.
        found: Its configuration, as the server has it.
        rest: What must be as a server has it by itself, unless it is declared.
    """
    wanted = {**rest, **declared}
    return tuple(
        Difference(field, value, found.get(field, rest.get(field)))
        for field, value in wanted.items()
        if not _same(value, found.get(field, rest.get(field)))
    )


def follows(one: Difference) -> bool:
    """Return whether a field may differ since the configuration has been changed."""
    return one.field in _FOLLOWING or (one.field == "max_age" and one.expected != 0)


def otherwise(what: str, differing: Sequence[Difference], done: str) -> Verdict:
    """Judge a stream or consumer that is not as it was declared.

    Args:
        what: Which: "stream EF_T_mail".
        differing: In what.
        done: "refused": it can't be put right; "put right"; "left" as it is.
    """
    told = "; ".join(map(str, differing))
    if done == "refused":
        advice = "Change it back, or move what it holds and remove it; the node makes it anew"
        return Verdict(what, REFUSED, f"configured otherwise: {told}", advice)
    if done == "put right":
        return Verdict(
            what,
            DOUBTFUL,
            f"was configured otherwise: {told}; put right",
            "Find out who changes it: what was lost meanwhile does not come back",
        )
    return Verdict(
        what,
        REFUSED if any(one.field in _FIXED for one in differing) else DOUBTFUL,
        f"configured otherwise: {told}",
        "Change it back, or start a node anew: it puts right what it can. Nodes with other "
        "settings on the same servers change it too",
    )


def insist(verdicts: Sequence[Verdict]) -> None:
    """Let a node go on, unless something is refused.

    Raises:
        EngineUnavailable: something is; all of it at once.
    """
    refused = ". ".join(str(one) for one in verdicts if one.state == REFUSED)
    if refused:
        raise EngineUnavailable(f"{refused}. Nothing was accepted")


def _same(expected: Any, found: Any) -> bool:
    nothing: tuple[Any, ...] = (None, {}, [])
    return bool(expected == found) or (expected in nothing and found in nothing)


def _shown(field: str, value: Any) -> str:
    if field in _TIMES and isinstance(value, int):
        return f"{value / _NS:g} s"
    if value is None or value == {}:
        return "nothing"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.partition("-")[0].split(".")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)


def _mebibytes(count: int) -> int:
    return -(-count // 2**20)


def _size(count: int) -> str:
    return f'"{max(1, count // 2**10)}KiB"'
