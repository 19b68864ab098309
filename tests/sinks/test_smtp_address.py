"""Addresses of mails: one is read or none, and every reader reads the one that was meant."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.sinks.smtp import address
from eventflow.sinks.smtp.address import Mailbox

# What names are made of by those who want more than a name.
PIECES = ["<eve@x.org>", "eve@x.org", *'",()<>:;\\@[]. a', "é", "=?utf-8?q?eve=40x.org?=", "\uff1e"]
NAMES = st.lists(st.sampled_from(PIECES), max_size=7).map("".join)


@pytest.mark.parametrize(
    ("text", "name", "local", "domain"),
    [
        ("ada@example.org", "", "ada", "example.org"),
        (" <ada@example.org> ", "", "ada", "example.org"),
        ("Ada <ada@example.org>", "Ada", "ada", "example.org"),
        ("Lovelace, Ada <a+b@example.org>", "Lovelace, Ada", "a+b", "example.org"),
        ('"Ada \\"the\\" first" <a@b.c>', 'Ada "the" first', "a", "b.c"),
        ('"<eve@x.org>" <a@b.c>', "<eve@x.org>", "a", "b.c"),
        ("a@localhost", "", "a", "localhost"),
        ("a@[127.0.0.1]", "", "a", "[127.0.0.1]"),
        ("a@bücher.example", "", "a", "xn--bcher-kva.example"),
        ("zoë@bücher.example", "", "zoë", "bücher.example"),
    ],
)
def test_what_is_read(text: str, name: str, local: str, domain: str) -> None:
    assert address.read(text) == Mailbox(name, local, domain)


@pytest.mark.parametrize(
    "text",
    [
        *["", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b c", "a.@b", ".a@b", "a..b@c", "a@b..c"],
        *["<a@b", "a@b>", "<a@b>c", "<<a@b>>", "a@b, c@d", "a@b <c@d>", '"a" <x@y> "b" <c@d>'],
        *["a\u200b@b", "a\xa0b@c", "a@\uff1e.org", "a@b\uff20c", "a@[x]", f"{'a' * 65}@b"],
        f"a@{'b' * 256}",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected "):
        address.read(text)


@given(name=NAMES, quoted=st.booleans())
def test_a_name_never_redirects(name: str, *, quoted: bool) -> None:
    """Beside an address of the operator's, or of the event's own field."""
    text = f'"{name}" <ada@y.org>' if quoted else f"{name} <ada@y.org>"
    try:
        box = address.read(text)
    except ValueError:
        return
    assert box.address == "ada@y.org"
    sent = address.write("To", [box])
    (read,) = message_from_bytes(sent + b"\r\n", EmailMessage, policy=policy.SMTP)["to"].addresses
    assert read.addr_spec == "ada@y.org"


@given(
    name=st.text(st.characters(exclude_categories=["C", "Z"], max_codepoint=0x2FFF) | st.just(" "))
)
def test_a_name_is_read_as_it_was_meant(name: str) -> None:
    name = " ".join(name.split())
    sent = address.write("To", [Mailbox(name, "ada", "y.org"), Mailbox("B", "b", "z.org")])

    assert all(len(line) <= 200 and line.isascii() for line in sent.split(b"\r\n"))
    found = getaddresses([message_from_bytes(sent + b"\r\n")["to"]])
    assert [box for _, box in found] == ["ada@y.org", "b@z.org"]
    # Not by `policy.SMTP`, which in some Pythons leaves blanks between the words it decodes.
    assert str(make_header(decode_header(found[0][0]))) == name
