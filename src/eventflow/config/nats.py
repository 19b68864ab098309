"""`[engine.nats]`: who a node is to NATS servers, and whom it trusts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

from eventflow.config import texts
from eventflow.config.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsSettings:
    """`[engine.nats]`: user, keys and certificates for NATS servers."""

    user: Annotated[str, texts.USERNAME] | None = None
    """The user's name, with `password`. A user and password in `[engine] url` are the same thing.

    Left out: nobody logs in, which a server on one's own machine allows.
    """

    password: Annotated[Secret, texts.PASSWORD] | None = None
    """The user's password.

    Written as `${NAME}` it stays out of the file, and needs no quoting as in a URL.
    """

    token: Annotated[Secret, texts.PASSWORD] | None = None
    """A token, where the servers ask for that and not for a user.

    Written as `${NAME}` it stays out of the file.
    """

    creds: Annotated[Path, texts.CREDS_FILE] | None = None
    """A credentials file: a user's JWT and seed, as `nsc generate creds` writes it.

    Read again at each connection: a new one in its place needs no restart.
    """

    nkey: Annotated[Path, texts.SEED_FILE] | None = None
    """A file with the seed of a user's NKey, for servers that know its public key.

    Read again at each connection. No secret leaves the node: it signs what the server sends.
    """

    ca: Annotated[Path, texts.CA_FILE] | None = None
    """Certificates of the authorities that the servers' certificates must be signed by.

    Left out: those that the machine trusts. Where it is given nothing goes unencrypted.
    """

    cert: Annotated[Path, texts.CERT_FILE] | None = None
    """This node's own certificate, with `key`, for servers that verify their clients.

    Left out: the node shows none. Where it is given nothing goes unencrypted.
    """

    key: Annotated[Path, texts.KEY_FILE] | None = None
    """The private key of `cert`, without a passphrase.

    A node starts without a person. Let nobody but its user read the file.
    """

    tls_first: bool = False
    """Whether the connection begins with TLS, as servers with `handshake_first: true` want it.

    Most servers greet in the clear first, and say then that they want TLS.
    """

    @property
    def wants_tls(self) -> bool:
        """Whether something here makes sense only on an encrypted connection."""
        return self.ca is not None or self.cert is not None or self.tls_first


def split_user(url: str) -> tuple[str, tuple[tuple[str, str | None], ...]]:
    """Return URLs of servers without what stands before their hosts, and who that was.

    Args:
        url: One URL, or several separated by commas.

    Returns:
        The URLs, and each user with its password once; no password: the user is a token.
    """
    plain, found = [], []
    for one in url.split(","):
        scheme, slashes, rest = one.partition("//")
        user, at, host = rest.rpartition("@")
        plain.append(f"{scheme}{slashes}{host}")
        if at:
            name, colon, password = user.partition(":")
            found.append((unquote(name), unquote(password) if colon else None))
    return ",".join(plain), tuple(dict.fromkeys(found))
