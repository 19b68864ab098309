"""NATS users with keys of their own, as an operator's tools would make them, for tests.

A server in "operator mode" trusts an operator's key, which has signed accounts, which have signed
users. The JWTs here are made by hand; `nsc` is no package that tests could install.
"""

from __future__ import annotations

import json
import secrets
import time
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any

import nkeys

if TYPE_CHECKING:
    from pathlib import Path

_UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)


class Pair:
    """A key of an operator, an account or a user."""

    def __init__(self, kind: int) -> None:
        self.seed = bytes(nkeys.encode_seed(secrets.token_bytes(32), kind)).decode()
        self.public = bytes(self._pair.public_key).decode()

    @property
    def _pair(self) -> Any:
        return nkeys.from_seed(bytearray(self.seed.encode()))

    def signed(self, subject: Pair, name: str, nats: dict[str, Any], **more: Any) -> str:
        """Return a JWT about `subject`."""
        now = int(time.time())
        claims = {
            "jti": secrets.token_hex(16).upper(),
            "iat": now,
            "iss": self.public,
            "name": name,
            "sub": subject.public,
            "nats": {"version": 2, **nats},
            **more,
        }
        head = _part({"typ": "JWT", "alg": "ed25519-nkey"})
        text = f"{head}.{_part(claims)}"
        return f"{text}.{_plain(self._pair.sign(text.encode()))}"


class Operator:
    """An operator with one account for queues, and the users of that."""

    def __init__(self) -> None:
        self._key = Pair(nkeys.PREFIX_BYTE_OPERATOR)
        self._system = Pair(nkeys.PREFIX_BYTE_ACCOUNT)
        self._account = Pair(nkeys.PREFIX_BYTE_ACCOUNT)
        self._revoked: dict[str, int] = {}
        self._jwt = self._key.signed(
            self._key, "op", {"type": "operator", "system_account": self._system.public}
        )

    @property
    def configuration(self) -> str:
        """What a server has to be told, with what has been revoked until now."""
        storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        accounts = {
            self._system.public: self._account_jwt(self._system, "SYS", {}),
            self._account.public: self._account_jwt(self._account, "EF", storage),
        }
        preload = "\n".join(f"{public}: {jwt}" for public, jwt in accounts.items())
        return (
            f"operator: {self._jwt}\nsystem_account: {self._system.public}\n"
            f"resolver: MEMORY\nresolver_preload {{\n{preload}\n}}\n"
        )

    def user(self, path: Path, **more: Any) -> str:
        """Write a credentials file for a new user; return the user's public key."""
        user = Pair(nkeys.PREFIX_BYTE_USER)
        limits = {"subs": -1, "data": -1, "payload": -1}
        jwt = self._account.signed(user, "node", {"type": "user", **limits}, **more)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
        return user.public

    def revoke(self, public: str) -> None:
        """Take a user's rights away, as of `configuration` from now on."""
        self._revoked[public] = int(time.time()) + 1

    def _account_jwt(self, account: Pair, name: str, storage: dict[str, int]) -> str:
        limits = {**_UNLIMITED, "wildcards": True, **storage}
        return self._key.signed(
            account, name, {"type": "account", "limits": limits, "revocations": self._revoked}
        )


def user_key(path: Path) -> str:
    """Write a file with the seed of a new user, as `nk -gen user` does; return the public key."""
    user = Pair(nkeys.PREFIX_BYTE_USER)
    path.write_text(f"{user.seed}\n{user.public}\n")
    return user.public


def _part(claims: dict[str, Any]) -> str:
    return _plain(json.dumps(claims, separators=(",", ":")).encode())


def _plain(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
