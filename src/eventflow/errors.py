"""Every exception that EventFlow raises on purpose.

    EventFlowError
      ConfigError         settings are missing, unknown or out of range: nothing was started
      InvalidEvent        an event breaks CloudEvents or its schema: nothing was stored
      Unroutable          no route takes the event: nothing was stored
      TooLarge            a request or an event is over its limit: nothing was stored
      QueueFull           a bounded queue has no room: send again later
      EngineUnavailable   the engine can't take anything now: nothing was stored
        EngineUnanswered  it may have done what it was asked: its answer was lost
      JournalInUse        another process holds the journal: nothing was opened
      JournalUnreadable   the journal is damaged or of another version: it was left as it is
      NameInUse           another node has this one's name: nothing was started
      JournalMoved        what the journal held was moved elsewhere: nothing was opened
      MoveRefused         a file can't be moved there as it is: nothing was written
      MoveUnfinished      a move has stopped on its way: run again it goes on
      BackupRefused       a backup can't be written there, or not now: none was written
      NodeUnavailable     no node answers, or it can take nothing now: sending again is safe
      Unauthorized        the node does not know the token, or does not allow this with it
      UnexpectedAnswer    what answers is no EventFlow node
      StorageUnavailable  secondary storage can't keep or give anything now
        StorageUnanswered it may have done what it was asked: its answer was lost
      UnknownName         no such topic, delivery or event
      WrongState          the delivery is not in a place that allows this
      ChangedMeanwhile    another node was told something else of the topic: nothing was changed
      Orphaned            the topic has gone from the configuration: nobody runs its deliveries
      Permanent           raised by a handler: no further attempt can help
      RetryLater          raised by a handler: try again, but not before then

Any other exception that leaves EventFlow is a bug: please report it.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class EventFlowError(Exception):
    """What all errors of EventFlow have in common."""


class ConfigError(EventFlowError):
    """Settings that can't be used. Nothing was started."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
        """One sentence each: file, table, key, what was expected, what came."""


class InvalidEvent(EventFlowError):
    """Events that break CloudEvents 1.0 or their schema. Nothing of the request was stored."""

    def __init__(self, problems: Sequence[str], *, index: int | None = None) -> None:
        where = "" if index is None else f"event {index}: "
        super().__init__("; ".join(where + problem for problem in problems))
        self.problems = tuple(problems)
        """One sentence a fault, each naming the attribute."""
        self.index = index
        """Which event of the request, counted from 0; None where there is only one."""


class Unroutable(EventFlowError):
    """No route takes the event, and `[common] unroutable` is "refuse". Nothing was stored."""

    def __init__(self, type: str, *, index: int | None = None) -> None:
        where = "the event" if index is None else f"event {index}"
        super().__init__(
            f"no route takes {where} of type {type!r}; nothing was stored. "
            f"Add a route for it, or set [common] unroutable to 'dead'."
        )
        self.type = type
        self.index = index


class TooLarge(EventFlowError):
    """A request or an event over its limit. Nothing was stored."""

    def __init__(
        self,
        what: str,
        size: int,
        limit: int,
        setting: str | None,
        *,
        advice: str = "",
        index: int | None = None,
    ) -> None:
        super().__init__(
            f"{what}: {size} is over the limit of {limit}; nothing was stored. "
            f"Send less at once, or {advice or f'raise {setting}'}."
        )
        self.what = what
        self.size = size
        self.limit = limit
        self.setting = setting
        """What the limit is set by, None where it is fixed."""
        self.index = index
        """Which event of the request, counted from 0; None: the request, or its only event."""


class QueueFull(EventFlowError):
    """A bounded queue has no room. Nothing was stored; sending again is safe."""

    def __init__(self, queue: str, capacity: int, retry_after_s: float, why: str = "") -> None:
        super().__init__(
            f"queue {queue!r} is full ({why or f'capacity {capacity}'}); nothing was stored. "
            f"Send again in {retry_after_s:g} s."
        )
        self.queue = queue
        self.capacity = capacity
        self.retry_after_s = retry_after_s
        self.why = why


class EngineUnavailable(EventFlowError):
    """The engine can't take anything now. Nothing was stored; sending again is safe."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the engine is unavailable: {reason}")
        self.reason = reason


class EngineUnanswered(EngineUnavailable):
    """The engine may have done what it was asked to, or not: its answer was lost.

    Sent again with the same ids, events that were stored are duplicates.
    """


class JournalInUse(EventFlowError):
    """Another process holds the journal. Nothing was opened."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(
            f"journal {path} is in use by {holder}; nothing was opened. "
            f"One process at a time: stop that one, or give this node a file of its own."
        )
        self.path = path
        self.holder = holder


class JournalUnreadable(EventFlowError):
    """The journal is damaged, or of a version this EventFlow can't read. It was left as it is."""

    def __init__(self, path: str, reason: str, advice: str) -> None:
        super().__init__(
            f"journal {path} can't be opened: {reason}. It was left as it is. {advice}"
        )
        self.path = path
        self.reason = reason


class NameInUse(EventFlowError):
    """Another node on the same servers has this one's name. Nothing was started."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(
            f"node name {name!r} is in use by {holder}; nothing was started. "
            f"Give this node a name of its own ([engine] node), or stop that one."
        )
        self.name = name
        self.holder = holder


class JournalMoved(EventFlowError):
    """What the journal held was moved elsewhere, or is being moved. Nothing was opened."""

    def __init__(self, path: str, to: str, storage: str, at: str, *, done: bool) -> None:
        command = f"`eventflow move --from sqlite:{path} --to {to} --storage {storage}`"
        if done:
            what = f"was moved to {to} and {storage} at {at}"
            advice = (
                f'Start the node with [engine] url = "{to}"; or give it a file of its own. This '
                f"one is kept as it was; it can be read with --db, and removed."
            )
        else:
            what = f"is being moved to {to} and {storage}, since {at}: some of it is there already"
            advice = f"End the move first: {command} goes on where it was."
        super().__init__(f"journal {path}: what it holds {what}; nothing was opened. {advice}")
        self.path = path
        self.to = to
        self.done = done


class MoveRefused(EventFlowError):
    """A file can't be moved there as things are. Nothing was written."""

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"{path} can't be moved there; nothing was written.{listed}")
        self.path = path
        self.problems = tuple(problems)
        """One sentence each: what does not fit, and how to make room."""


class MoveUnfinished(EventFlowError):
    """A move has stopped on its way. What has come is there; the rest is in the file."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{path} is not wholly moved: {reason}. Nothing is lost, and no node starts on either "
            f"side until it is: run the same command again, it goes on where it was."
        )
        self.path = path
        self.reason = reason


class BackupRefused(EventFlowError):
    """A backup can't be written there, or not now. None was written."""

    def __init__(self, path: str, reason: str, advice: str) -> None:
        super().__init__(f"backup {path}: {reason}; none was written. {advice}")
        self.path = path
        self.reason = reason


class NodeUnavailable(EventFlowError):
    """No node answers, or it can take nothing now. Sending the same events again is safe.

    An event that was sent without an answer may be stored: under its id it is a duplicate then.
    """

    def __init__(self, url: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason
        self.retry_after_s = retry_after_s
        """What the node asked for; None: nothing."""


class Unauthorized(EventFlowError):
    """The node does not know the token, or does not allow this with it. Nothing was done."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"{url} {reason}; nothing was done. "
            "Give the secret of one of its [server] tokens: token=… or EVENTFLOW_TOKEN."
        )
        self.url = url
        self.reason = reason


class UnexpectedAnswer(EventFlowError):
    """What answers is no EventFlow node. Nothing is known of what was sent."""

    def __init__(self, url: str, answer: str) -> None:
        super().__init__(
            f"{url} {answer}, as no EventFlow node does. Name one: url=… or EVENTFLOW_URL."
        )
        self.url = url


class StorageUnavailable(EventFlowError):
    """Secondary storage can't keep or give anything now. What it held it still holds."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"secondary storage is unavailable: {reason}")
        self.reason = reason


class StorageUnanswered(StorageUnavailable):
    """Secondary storage may have done what it was asked to, or not: its answer was lost."""


class UnknownName(EventFlowError):
    """There is no such topic, delivery or event."""

    def __init__(self, kind: str, name: str, known: Iterable[str] = ()) -> None:
        super().__init__(f"there is no {kind} {name!r}.{did_you_mean(name, known)}")
        self.kind = kind
        self.name = name


class WrongState(EventFlowError):
    """The delivery is in a place that does not allow this. Nothing was changed."""

    def __init__(self, delivery: str, state: str, wanted: str) -> None:
        super().__init__(f"delivery {delivery} is {state}; expected {wanted}. Nothing was changed.")
        self.delivery = delivery
        self.state = state


class ChangedMeanwhile(EventFlowError):
    """Another node was told something else of the topic at this moment. Nothing was changed."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"topic {topic!r} was changed by way of another node at the same moment. Nothing was "
            "changed here. Look at what it is now, and send it again."
        )
        self.topic = topic


class Orphaned(EventFlowError):
    """The topic has gone from the configuration; what it holds is kept. Nothing was changed."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"topic {topic!r} is an orphan: it has gone from the configuration, and what it holds "
            "is kept. Nothing was changed. Put it back into the configuration, and it goes on."
        )
        self.topic = topic


class Permanent(EventFlowError):
    """Raise this in a handler when no further attempt can help: the delivery is dead at once."""


class RetryLater(EventFlowError):
    """Raise this in a handler to be tried again, not before `delay_s` seconds from now.

    Args:
        delay_s: Seconds to wait, 0 or more.
        count: False to use up no attempt. Allowed 100 times for a delivery.
        why: Shown to whoever asks what became of the delivery.

    Raises:
        ValueError: `delay_s` is negative or not a number.
    """

    def __init__(self, delay_s: float, *, count: bool = True, why: str = "") -> None:
        if not delay_s >= 0:
            raise ValueError(f"delay_s: expected 0 or more seconds, got {delay_s!r}")
        super().__init__(why or f"asked to be tried again in {delay_s:g} s")
        self.delay_s = delay_s
        self.count = count


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" where a known name is close to `name`, else ""."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
