"""The signature of Standard Webhooks: who sent a request, and that its body is as it was sent.

    webhook-id          the event's key: the same at every attempt, so a repeat can be told
    webhook-timestamp   seconds since 1970, of this attempt: receivers refuse old ones
    webhook-signature   v1,<base64 of HMAC-SHA256(secret, "id.timestamp.body")>, one a secret

With two secrets both sign, and a receiver that knows either takes it: so a secret is replaced
without a gap. Attributes in `ce-*` headers are not signed, only the body is: that is the standard.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "whsec_"


def key_of(secret: str) -> bytes:
    """Return the key that a secret writes down: base64, with `whsec_` before it.

    Raises:
        ValueError: it is not of this form.
    """
    if not secret.startswith(PREFIX):
        raise ValueError(f"expected {PREFIX} first")
    text = secret.removeprefix(PREFIX).rstrip("=")
    return b64decode(text + "=" * (-len(text) % 4), validate=True)


class Signer:
    """Signs with some secrets; with none it does not.

    Args:
        secrets: As the settings have them.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [key_of(secret) for secret in secrets]

    @property
    def signs(self) -> bool:
        """Whether there is a secret."""
        return bool(self._keys)

    def headers(self, id: str, now_s: float, body: bytes) -> dict[str, str]:
        """Return the headers that sign a body.

        Args:
            id: Of the event.
            now_s: Seconds since 1970; the standard has whole ones.
            body: As it is sent.
        """
        moment = str(int(now_s))
        signed = f"{id}.{moment}.".encode() + body
        signatures = (hmac.digest(key, signed, "sha256") for key in self._keys)
        return {
            "webhook-id": id,
            "webhook-timestamp": moment,
            "webhook-signature": " ".join(f"v1,{b64encode(one).decode()}" for one in signatures),
        }
