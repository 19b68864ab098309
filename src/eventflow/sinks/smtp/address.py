"""Addresses of mails: read strictly, written so that every reader reads the same.

    ada@example.org          Ada <ada@example.org>          Lovelace, Ada <ada@example.org>

The address is what stands in the last `<…>`, or all there is; what stands before is the name, taken
as it is. A name can come from anybody, and mail libraries forgive: to one of them
`<eve@x.org>é <ada@y.org>` is a mail to Eve. Here it is an error, as is all that is not exactly one
address.
"""

from __future__ import annotations

import re
from email.header import Header
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

CRLF = "\r\n"
_LOCAL_MAX, _DOMAIN_MAX = 64, 255
"""Characters before and after the @ (RFC 5321, 4.5.3.1)."""
_PLAIN_MAX = 60
"""A longer name is written in encoded words, which can be folded."""
_ATOM = r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]|[^\x00-\x7f])+"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_DOMAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[(?:IPv6:)?[0-9A-Fa-f.:]+\]")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Mailbox(NamedTuple):
    """An address, and whose it is."""

    name: str
    local: str
    domain: str

    @property
    def address(self) -> str:
        """What stands between < and >."""
        return f"{self.local}@{self.domain}"


def read(text: str) -> Mailbox:
    """Return the one address that `text` is, with a name before it or without.

    Args:
        text: One line.

    Raises:
        ValueError: it is none, or several; it says what was expected.
    """
    name, bracket, rest = text.strip().rpartition("<")
    address = rest.removesuffix(">") if bracket else rest
    if bracket and (not rest.endswith(">") or (name != "" and _is_several(name))):
        raise ValueError(_expected(text))
    local, _, domain = address.rpartition("@")
    fits = len(local) <= _LOCAL_MAX and len(domain) <= _DOMAIN_MAX and address.isprintable()
    if not fits or not _LOCAL.fullmatch(local):
        raise ValueError(_expected(text))
    try:
        ascii_domain = domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f"expected a domain, got {domain[:80]!r}: {error}") from error
    if not _DOMAIN.fullmatch(ascii_domain):  # some letters become < or @ when they are encoded
        raise ValueError(_expected(text))
    # A server that takes other letters before the @ takes them after it too.
    return Mailbox(_unquoted(name.strip()), local, ascii_domain if local.isascii() else domain)


def write(header: str, boxes: Sequence[Mailbox]) -> bytes:
    """Return the header, its line end included."""
    shown = [f"{_named(box.name)}<{box.address}>" if box.name else box.address for box in boxes]
    return f"{header}: {f',{CRLF} '.join(shown)}{CRLF}".encode()


def _is_several(name: str) -> bool:
    """Return whether what stands before an address is no name: it has an address of its own."""
    return not _QUOTED.fullmatch(name.strip()) and any(sign in name for sign in "<>@")


def _unquoted(name: str) -> str:
    quoted = _QUOTED.fullmatch(name)
    return name if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1])


def _named(name: str) -> str:
    """Return a name as headers have it, and what parts it from its address."""
    if len(name) > _PLAIN_MAX or not name.isascii() or "=?" in name:
        return Header(name, "utf-8", header_name="Reply-To").encode(linesep=CRLF) + f"{CRLF} "
    if re.fullmatch(r"[A-Za-z0-9 ]+", name):
        return f"{name} "
    return '"' + re.sub(r'(["\\])', r"\\\1", name) + '" '


def _expected(text: str) -> str:
    several = ". Write several as a list" if text.count("@") > 1 else ""
    return f"expected one address such as ada@example.org, got {text[:80]!r}{several}"
