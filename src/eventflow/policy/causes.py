"""What a failure means: worth another try or not, and whether it speaks against the topic.

    cause                                                    retry   counts for the breaker
    ------------------------------------------------------   -----   ----------------------
    connection errors, timeouts, SQL operational errors      yes     yes
    http 408, 425, 429, 5xx (obeying `Retry-After`)          yes     yes
    http 401, 403, 404                                       yes     yes
    smtp 4xx; 530, 534, 535, 538; any before a mail begins   yes     yes
    any exception that is not named here                     yes     yes
    http 3xx (not followed), 410 and other 4xx               no      no
    any other smtp 5xx                                       no      no
    SQL integrity and data errors, validation errors         no      no
    `Permanent`, raised by the handler                       no      no
    programming errors: `TypeError`, `KeyError`, ...         no      yes

A 401 is worth another try, since somebody will mend the token; so is what a mail server says about
the login or the connection, which is about no mail (docs/adr/0006). A programming error is not, but
it counts for the breaker: a bad deploy stops after one window instead of emptying the queue.

Exceptions are known by name, those of their bases included, so that no library has to be imported
to be known. A topic's own word on a name stands over this table.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Verdict = Literal["retry", "dead"]
"""What a topic can say of an exception name: worth another try, or dead at once."""

LONGEST_RETRY_AFTER_S = 86_400.0
"""A target may ask for a day at most: a slip of its clock must not shelve a delivery for years."""

_FINGERPRINT_OF = 500
"""Characters of a message that a fingerprint looks at: the start says what kind it is."""


class Cause(msgspec.Struct, frozen=True, gc=False):
    """What kind of failure it is, and what follows from that."""

    name: str
    """An exception's name, or a status: "TimeoutError", "http 503", "smtp 450"."""
    permanent: bool
    """No further attempt can help."""
    trips_breaker: bool
    """It speaks against the topic's destination or code, not against this one event."""
    retry_after: str | None = None
    """The target's `Retry-After`, as it came: see `retry_after_at`."""


_PROGRAMMING = (
    *("TypeError", "KeyError", "AttributeError", "NameError", "IndexError", "ImportError"),
    *("SyntaxError", "AssertionError", "NotImplementedError", "RecursionError"),
    "ZeroDivisionError",
)
_DATA = (
    *("IntegrityError", "DataError"),  # DB-API 2.0 (PEP 249), and so all SQL libraries
    "apsw.ConstraintError",
    *("ValidationError", "DecodeError", "JSONDecodeError", "UnicodeError"),
    *("eventflow.errors.InvalidEvent", "eventflow.errors.Permanent"),
    "eventflow.policy.expression.ExpressionError",
)
_TRANSIENT = ("ConnectionError", "TimeoutError", "OperationalError")
_TABLE: dict[str, tuple[bool, bool]] = {
    **dict.fromkeys(_PROGRAMMING, (True, True)),
    **dict.fromkeys(_DATA, (True, False)),
    **dict.fromkeys(_TRANSIENT, (False, True)),
}
"""(permanent, trips_breaker) by name of an exception."""

_RETRIED_STATUS = frozenset({401, 403, 404, 408, 425, 429})
_RETRIED_REPLY = frozenset({530, 534, 535, 538})
"""Of the login: required, too weak, wrong, only over TLS (RFC 4954, 6)."""


def of_exception(names: Sequence[str], overrides: Mapping[str, Verdict] | None = None) -> Cause:
    """Return what an exception means.

    Args:
        names: The classes of its MRO, the most derived first, each dotted and plain:
            "httpx.ConnectError", "ConnectError", ..., "builtins.Exception", "Exception".
        overrides: A topic's own word on names, dotted or plain. It covers subclasses, as `except`
            does; of several the most derived one counts.

    Raises:
        ValueError: no names.
    """
    if not names:
        raise ValueError("names: expected at least one class name, got none")
    name = names[0].rpartition(".")[2]
    permanent, trips_breaker = next((_TABLE[n] for n in names if n in _TABLE), (False, True))
    said = next((overrides[n] for n in names if n in overrides), None) if overrides else None
    if said is None:
        return Cause(name, permanent, trips_breaker)
    return Cause(name, said == "dead", trips_breaker)


def of_status(status: int, retry_after: str | None = None) -> Cause:
    """Return what an HTTP answer means that is not a success.

    Args:
        status: The status code. One that HTTP does not have (below 100, above 599) is the
            server's fault, and worth another try.
        retry_after: The `Retry-After` header, as it came.

    Raises:
        ValueError: `status` is a success.
    """
    if 200 <= status < 300:
        raise ValueError(f"status: expected a failure, got {status}")
    if 300 <= status < 500 and status not in _RETRIED_STATUS:
        return Cause(f"http {status}", permanent=True, trips_breaker=False)
    return Cause(f"http {status}", permanent=False, trips_breaker=True, retry_after=retry_after)


def of_smtp(code: int, *, session: bool = False) -> Cause:
    """Return what an SMTP reply means that is not a success.

    A 5xx is permanent (RFC 5321, 4.2.1), where it is about a mail.

    Args:
        code: The reply's code.
        session: It came before a mail began: the greeting, or the answer to EHLO, STARTTLS, AUTH.

    Raises:
        ValueError: `code` is a success.
    """
    if 200 <= code < 400:
        raise ValueError(f"code: expected a failure, got {code}")
    permanent = 500 <= code < 600 and code not in _RETRIED_REPLY and not session
    return Cause(f"smtp {code}", permanent=permanent, trips_breaker=not permanent)


def retry_after_at(header: str | None, now: float) -> float | None:
    """Return the time that a `Retry-After` names, in seconds since 1970.

    Both forms of RFC 9110, 10.2.3: whole seconds, or an HTTP date. What is over is `now`, what is
    more than `LONGEST_RETRY_AFTER_S` ahead is cut to that.

    Returns:
        `now` or later; None for no header, and for one that says neither.
    """
    if header is None:
        return None
    text = header.strip()[:64]
    if re.fullmatch(r"[0-9]+", text):
        wait_s = float(text)
    else:
        at = _http_date(text)
        if at is None:
            return None
        wait_s = at - now
    return now + min(max(0.0, wait_s), LONGEST_RETRY_AFTER_S)


def _http_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return zoned.timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


_DETAILS = re.compile(
    r"""
      (?<!\w) (?P<quote>['"`]) [^\n]*? (?P=quote) (?!\w)       # quoted text
    | \S+ @ \S+                                                # a mail address
    | \b [0-9a-f]{8} (?:-[0-9a-f]{4}){3} -[0-9a-f]{12} \b      # a UUID
    | \b 0x[0-9a-f]+ \b                                        # an address, as Python prints it
    | \b (?=[a-f]*[0-9]) [0-9a-f]{8,} \b                       # a hash or an id, in hex
    | [0-9]+ (?:\.[0-9]+)*                                     # a number, a version, an IP
    """,
    re.VERBOSE | re.IGNORECASE,
)


def fingerprint(kind: str, message: str, frames: Sequence[str] = ()) -> str:
    """Return what failures that look alike have in common: 12 hexadecimal digits.

    Args:
        kind: The cause's name.
        message: What it said. Of its first 500 characters, numbers, UUIDs, hexadecimal ids, mail
            addresses and quoted texts don't count.
        frames: Where it happened, such as "shop.handlers.send", innermost last. Without numbers
            of lines, which change with every edit.
    """
    alike = " ".join(_DETAILS.sub("#", message[:_FINGERPRINT_OF]).split())
    seen = "\0".join((kind, alike, *frames))
    return hashlib.sha256(seen.encode("utf-8", "replace")).hexdigest()[:12]
