"""The signatures of webhooks: who sent a body, and for some schemes when.

    scheme     header                 signed                    id of the event
    github     x-hub-signature-256    body                      x-github-delivery
    standard   webhook-signature      id.timestamp.body         webhook-id
    stripe     stripe-signature       timestamp.body            `id` in the body

Of several secrets each is enough, so that one can be replaced without a gap. GitHub signs neither
a time nor its id: whoever has got hold of one of its requests can send that again under another.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode
from typing import TYPE_CHECKING

from eventflow.sinks.signature import key_of
from eventflow.web.problem import Problem, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TOLERANCE_S = 300
"""How far a signed time may be from now, either way: what the schemes' own libraries allow."""

MAX_SIGNATURES = 20
"""Of a request. A sender has one a secret; thousands would only cost time."""

HEADER = {
    "github": "x-hub-signature-256",
    "standard": "webhook-signature",
    "stripe": "stripe-signature",
}
"""Which header holds the signature."""


def keys_of(scheme: str, secrets: Iterable[str]) -> tuple[bytes, ...]:
    """Return the keys that secrets write down.

    Raises:
        ValueError: one is not of the form that the scheme has.
    """
    if scheme == "standard":
        return tuple(key_of(secret) for secret in secrets)
    return tuple(secret.encode() for secret in secrets)


def verify(
    scheme: str, keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now_s: float
) -> None:
    """Hold a request against its signature.

    Raises:
        Refusal: 401; it is not signed by any of these keys, or not within the tolerance.
    """
    name = HEADER[scheme]
    given = headers.get(name)
    if not given:
        raise _forged(f"expected a signature in {name}, got none")
    moment = None
    if scheme == "github":
        signed, found = body, _github(given)
    elif scheme == "standard":
        moment = headers.get("webhook-timestamp", "")
        id = headers.get("webhook-id", "")
        if not id:
            raise _forged("expected an id in webhook-id, got none")
        signed, found = _bytes(f"{id}.{moment}.") + body, _standard(given)
    else:
        moment, found = _stripe(given)
        signed = _bytes(f"{moment}.") + body
    if not found:
        raise _forged(
            f"expected a signature of the scheme {scheme!r} in {name}, got {given[:40]!r}"
        )
    fits = False
    for key in keys:  # all of them: how long it takes says nothing
        digest = hmac.digest(key, signed, "sha256")
        for signature in found[:MAX_SIGNATURES]:
            fits |= hmac.compare_digest(digest, signature)
    if not fits:
        raise _forged(f"the signature in {name} was not made of this body with a secret known here")
    if moment is not None:
        _check_time(moment, now_s)


def _bytes(text: str) -> bytes:
    """Return a header's value as it came."""
    return text.encode("latin-1")


def _github(given: str) -> list[bytes]:
    scheme, _, text = given.partition("=")
    return _unhex([text]) if scheme == "sha256" else []


def _standard(given: str) -> list[bytes]:
    """Return the signatures of version 1; later versions stand beside them."""
    found = []
    for one in given.split(" "):
        version, _, text = one.partition(",")
        if version == "v1":
            try:
                found.append(b64decode(text, validate=True))
            except ValueError:
                continue
    return found


def _stripe(given: str) -> tuple[str, list[bytes]]:
    """Return the time and the signatures of version 1; v0 is that of Stripe's test mode."""
    pairs = [part.strip().partition("=") for part in given.split(",")]
    moments = [text for name, _, text in pairs if name == "t"]
    found = _unhex(text for name, _, text in pairs if name == "v1")
    return (moments[0], found) if len(moments) == 1 else ("", [])


def _unhex(texts: Iterable[str]) -> list[bytes]:
    found = []
    for text in texts:
        try:
            found.append(binascii.unhexlify(_bytes(text)))
        except ValueError:
            continue
    return found


def _check_time(moment: str, now_s: float) -> None:
    if not (moment.isascii() and moment.isdigit() and len(moment) < 12):
        raise _forged(f"expected a time in seconds since 1970, got {moment[:40]!r}")
    off_s = now_s - int(moment)
    if abs(off_s) > TOLERANCE_S:
        raise Refusal(
            Problem(
                status=401,
                code="stale-signature",
                title="Signed at another time",
                detail=(
                    f"expected a signature of the last {TOLERANCE_S} s, got one of {abs(off_s):.0f}"
                    f" s {'ago' if off_s > 0 else 'ahead'}. Nothing was stored; send it again with "
                    "a new one, or set the clock that is wrong."
                ),
                reason="unauthorized",
            )
        )


def _forged(got: str) -> Refusal:
    return Refusal(
        Problem(
            status=401,
            code="wrong-signature",
            title="Not signed by a sender that is known",
            detail=f"{got}. Nothing was stored; hold the sender's secret against the webhook's.",
            reason="unauthorized",
        )
    )
