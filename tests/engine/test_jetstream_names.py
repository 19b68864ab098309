"""What a message is called, and what its lease says of it."""

from __future__ import annotations

import random
from base64 import b32encode

import pytest

from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.answers import told_by
from eventflow.event import Event, key_text


def event(**extensions: str) -> Event:
    return Event(id="1", source="/shop", type="order.paid", **extensions)


def ref(last: str) -> str:
    return f"01890a5d-ac96-774b-bcce-b302099a805{last}"


def test_a_key_is_base32_as_the_standard_library_writes_it(seed: int) -> None:
    rng = random.Random(seed)
    keys = [bytes(16), b"\xff" * 16, *(rng.randbytes(16) for _ in range(200))]

    assert [key_text(key) for key in keys] == [
        b32encode(key).decode().rstrip("=").lower() for key in keys
    ]


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.EF_T_api.normal.3.4711.12.1732600000000000000.7",
        "$JS.ACK._.ACC.EF_T_api.normal.3.4711.12.1732600000000000000.7",
        "$JS.ACK.hub.ACC.EF_T_api.normal.3.4711.12.1732600000000000000.7.random",
    ],
)
def test_a_lease_says_which_message_and_how_often_it_was_delivered(reply: str) -> None:
    assert told_by(reply) == (4711, 3)


def test_events_without_a_partition_key_are_spread_over_the_slots_by_their_ref() -> None:
    """What a move has put is looked for under its subject by the next run, and the next release."""
    assert [names.slot(event(), ref(last)) for last in "0123"] == ["13", "09", "06", "07"]


def test_events_of_one_partition_key_share_a_slot() -> None:
    slots = {names.slot(event(partitionkey="alice"), ref(last)) for last in "0123456789abcdef"}

    assert slots == {"11"}
