"""Who this node is to the servers, and whom it trusts: from `[engine.nats]` to keys and contexts.

Files are read anew at each connection, so that one that was replaced counts without a restart. What
is wrong with one is an error of NATS' kind: while the node runs, the next attempt reads it again.
No message holds more of a secret than the public half of its key.
"""

from __future__ import annotations

import re
import ssl
from base64 import b64encode, urlsafe_b64decode
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import nats.errors

from eventflow.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from eventflow.config import NatsSettings

NOBODY: Final = "a node without credentials"
_BLOCK: Final = re.compile(r"-{3,}BEGIN ([A-Z ]+?)-{3,}\s+(\S+)\s+-{3,}END")
_SEED: Final = re.compile(r"\bSU[A-Z2-7]{56}\b")
_JWT_BLOCK: Final = "NATS USER JWT"
_SEED_BLOCK: Final = "USER NKEY SEED"


class Unusable(nats.errors.Error):
    """A file of `[engine.nats]` can't be used; the text says which and why."""


class Keys(NamedTuple):
    """What a node proves its identity with, where that is no password."""

    public: str
    """Of the user: begins with U."""
    seed: str
    jwt: str | None = None

    def sign(self, nonce: str) -> bytes:
        """Return the signature of what the server sent."""
        return b64encode(_pair(self.seed).sign(nonce.encode()))

    def __repr__(self) -> str:
        return f"Keys({self.public!r})"


class Claims(msgspec.Struct, frozen=True):
    """What a JWT says of its user: what is looked at here."""

    sub: str = ""
    name: str = ""
    exp: float = 0.0
    """When it ends, seconds since 1970; 0: never."""


def keys_of(access: NatsSettings) -> Keys | None:
    """Return the keys that the settings name; None: they name none.

    Raises:
        Unusable: the file can't be read, or holds none.
        ConfigError: the package that signs is not installed.
    """
    if access.creds is not None:
        text = _read("creds", access.creds)
        blocks = dict(_BLOCK.findall(text))
        jwt, seed = blocks.get(_JWT_BLOCK), blocks.get(_SEED_BLOCK)
        if jwt is None or seed is None:
            what = _JWT_BLOCK if jwt is None else _SEED_BLOCK
            raise Unusable(
                f"[engine.nats] creds: expected a file with a block BEGIN {what}, got "
                f"{access.creds} without one. `nsc generate creds` writes such a file"
            )
        return Keys(_public("creds", access.creds, seed), seed, jwt)
    if access.nkey is not None:
        found = _SEED.search(_read("nkey", access.nkey))
        if found is None:
            raise Unusable(
                f"[engine.nats] nkey: expected a file with a user's seed, 58 characters that begin "
                f"with SU, got {access.nkey} without one. `nk -gen user` makes such a seed"
            )
        return Keys(_public("nkey", access.nkey, found[0]), found[0])
    return None


def claims_of(jwt: str) -> Claims:
    """Return what a JWT says; nothing where it can't be read. Its signature is not looked at."""
    part = jwt.split(".")[1] if jwt.count(".") == 2 else ""
    try:
        return msgspec.json.decode(urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=Claims)
    except (ValueError, msgspec.MsgspecError):
        return Claims()


def context_of(access: NatsSettings) -> ssl.SSLContext:
    """Return what an encrypted connection is made with.

    Raises:
        Unusable: a file can't be read, or holds no certificate or key.
    """
    context = ssl.create_default_context()
    if access.ca is not None:
        context = _with("ca", access.ca, lambda: ssl.create_default_context(cafile=access.ca))
    cert, key = access.cert, access.key
    if cert is not None and key is not None:
        # A passphrase would be asked for on the terminal: a node has none.
        _with("key", key, lambda: context.load_cert_chain(cert, key, password=lambda: ""))
    return context


def who(access: NatsSettings) -> str:
    """Return how the node logs in, for messages."""
    shown = "" if access.cert is None else f", and the certificate {access.cert}"
    if access.user is not None:
        return f"user {access.user!r} with a password{shown}"
    if access.token is not None:
        return f"a token{shown}"
    for name, path in (("creds", access.creds), ("nkey", access.nkey)):
        if path is not None:
            return f"{_named(access, name, path)}{shown}"
    return f"the certificate {access.cert}" if access.cert is not None else NOBODY


def _named(access: NatsSettings, kind: str, path: Path) -> str:
    what = f"the {'credentials' if kind == 'creds' else 'NKey'} of {path}"
    try:
        keys = keys_of(access)
    except (Unusable, ConfigError):
        return what
    return f"{what} (user {keys.public})" if keys is not None else what


def _read(name: str, path: Path) -> str:
    return str(_with(name, path, lambda: path.read_text("ascii", "replace")))


def _with(name: str, path: Path, step: Any) -> Any:
    try:
        return step()
    except ssl.SSLError as error:
        why = f"can't be used: {error.reason or 'not in PEM form'}"
    except OSError as error:
        why = f"can't be read: {error.strerror}"
    raise Unusable(f"[engine.nats] {name}: {path} {why}")


def _public(name: str, path: Path, seed: str) -> str:
    nkeys = _library()
    try:
        kind, raw = nkeys.decode_seed(seed.encode())
        whole = kind == nkeys.PREFIX_BYTE_USER and nkeys.encode_seed(raw, kind) == seed.encode()
    except nkeys.NkeysError:
        whole = False
    if not whole:  # its last characters are a checksum, at which nkeys itself does not look
        raise Unusable(f"[engine.nats] {name}: the seed in {path} is damaged")
    return bytes(_pair(seed).public_key).decode()


def _pair(seed: str) -> Any:
    return _library().from_seed(bytearray(seed.encode()))


def _library() -> Any:
    try:
        import nkeys  # noqa: PLC0415  # needed by few
    except ModuleNotFoundError as error:
        why = f"creds and nkey need the package {error.name!r}, which is not installed"
        raise ConfigError([f"[engine.nats]: {why}. Install eventflow[nats]"]) from error
    return nkeys
