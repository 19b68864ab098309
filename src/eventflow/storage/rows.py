"""How a delivery is written in secondary storage, and what it counts for there.

A body is the msgpack array `[FORMAT, delivery]`. The number tells a reader of another release
what it has before it, so that it can say so instead of misreading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventflow.delivery import Attempt, Delivery
from eventflow.errors import StorageUnavailable
from eventflow.storage.protocol import Kept

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = 1
"""Of the bodies written. Others are refused."""

_LATEST_S = 253_402_300_799.0  # the last second of the year 9999: later ones have no RFC 3339 text
_ATTEMPT_BYTES = 32  # two times, a round, and what frames them

_encode = msgspec.msgpack.Encoder().encode
_open = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_format = msgspec.msgpack.Decoder(int).decode
_delivery = msgspec.msgpack.Decoder(Delivery).decode


def encode(delivery: Delivery) -> bytes:
    """Return a delivery as the body of a row."""
    return _encode((FORMAT, delivery))


def decode(body: bytes, what: str = "a kept delivery") -> Delivery:
    """Return the delivery in the body of a row.

    Args:
        body: What `encode` gave.
        what: Whose body it is: for the message.

    Raises:
        StorageUnavailable: it is of another format, or damaged.
    """
    try:
        parts = _open(body)
        held = _format(parts[0])
        if held == FORMAT:
            return _delivery(parts[1])
    except (msgspec.MsgspecError, IndexError, UnicodeDecodeError) as error:
        raise StorageUnavailable(
            f"{what} is damaged ({error}); it was left as it is. Restore a backup, or discard it"
        ) from error
    raise StorageUnavailable(
        f"{what} is written in format {held}, this EventFlow reads format {FORMAT}; "
        f"it was left as it is. Run the EventFlow that wrote it"
    )


def kept_of(delivery: Delivery, state: str, since: float) -> Kept:
    """Return a delivery as storage keeps it.

    Args:
        delivery: As it is in storage, its hop included.
        state: "parked" or "dead".
        since: When it came there, seconds since 1970; kept to the microsecond.
    """
    return Kept(delivery, state, round(since, 6), size_bytes(delivery))


def size_bytes(delivery: Delivery) -> int:
    """Return what a delivery counts towards `max_size`: event, history and traceback, in bytes."""
    size = delivery.event.size_bytes
    if delivery.history:
        size += sum(map(_attempt_bytes, delivery.history))
    if delivery.traceback is not None:
        size += len(delivery.traceback.encode())
    return size


def _attempt_bytes(attempt: Attempt) -> int:
    texts: Iterable[str] = (attempt.outcome, attempt.cause, attempt.error, attempt.fingerprint)
    return _ATTEMPT_BYTES + sum(len(text.encode()) for text in texts)


def micros(at: float) -> int:
    """Return seconds since 1970 as whole microseconds; what is out of 1970 to 9999 is moved there.

    A handler may ask for `RetryLater(float("inf"))`: that must not fail the commit it is part of.
    """
    # Whole seconds apart from the rest: `at * 1e6` alone is a microsecond off from 2041 on.
    whole, rest = divmod(min(max(0.0, at), _LATEST_S), 1.0)
    return int(whole) * 1_000_000 + round(rest * 1e6)


def seconds(at_us: int) -> float:
    """Return microseconds since 1970 as seconds."""
    return at_us / 1e6
