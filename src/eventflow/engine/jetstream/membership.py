"""Which nodes there are: each keeps one message under its name, and writes it anew every second.

A name is one node's: two with the same one would write the same line of the ledger. The server
keeps that: a beat is stored only where the message before it is this node's own. Who starts finds
a name free if there is no message, or one that says the node has stopped, or one that is not
written anew for as long as a node may be quiet. It listens for that time itself, whatever the
clocks say, so a node that was killed is back after `OVER_S` seconds at most.

Messages are JSON, to be read by people too, and by nodes of other releases: members that are not
known are left alone.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from eventflow.clock import rfc3339
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.wire import Item, Refused
from eventflow.engine.members import Member
from eventflow.errors import EngineUnavailable, NameInUse
from eventflow.policy.nodes import OVER_S, state_of
from eventflow.telemetry.logging import log
from eventflow.telemetry.names import NAME_LOST, NODE_AWAITED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.clock import Clock
    from eventflow.engine.jetstream.wire import Message, Wire

KEPT_S = 86_400.0
"""How long the last word of a node that is gone is kept, in real seconds."""
LONG_AGO_S = 60.0
"""A last word as old as that by the clocks, however wrong they are, is nobody's who lives."""
_LISTEN_S = 0.25
_PAGE = 100
_WRONG_LAST_SEQUENCE = 10071


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's message says."""

    member: Member
    life: str
    """Of this process alone."""
    stopped: bool = False


class Heard(NamedTuple):
    """The last word of a node."""

    seq: int
    at: float
    """When it was heard, by the event loop's clock."""
    beat: Beat


_decode = msgspec.json.Decoder(Beat).decode
_encode = msgspec.json.Encoder().encode


class Membership:
    """This node among the others."""

    def __init__(self, wire: Wire, clock: Clock) -> None:
        self._wire = wire
        self._clock = clock
        self._me: Member | None = None
        self._life = ""
        self._seq = 0
        """Of this node's message: only behind it may the next one be stored."""
        self._heard: dict[str, Heard] = {}
        self.lost: str | None = None
        """Who has this node's name now; this one has no right to go on."""

    async def join(self, me: Member, life: str) -> None:
        """Take the name, or find that it is another's.

        Raises:
            NameInUse: a living node has it.
            EngineUnavailable: no answer.
        """
        self._me, self._life = me, life
        loop = asyncio.get_running_loop()
        first: Message | None = None
        since = 0.0
        while True:
            found = await self._wire.get(names.NODES, last_by_subj=self._subject)
            beat = None if found is None else _read(found.body)
            if found is not None and not self._is_over(beat):
                if first is None:
                    first, since = found, loop.time()
                    log(NODE_AWAITED, node=me.name, holder=_holder(beat), wait_s=OVER_S)
                elif first.seq != found.seq:
                    raise NameInUse(me.name, _holder(beat))
                if loop.time() - since < OVER_S:
                    await asyncio.sleep(_LISTEN_S)
                    continue
            with suppress(_Overtaken):
                await self._write(stopped=False, behind=0 if found is None else found.seq)
                break
        await self.listen()

    def _is_over(self, beat: Beat | None) -> bool:
        """Whether a last word is known to be nobody's who lives, without listening."""
        if beat is None:
            return False  # of a release that says it otherwise: only its silence can tell
        own = beat.life == self._life  # written before, and not answered
        return own or beat.stopped or self._clock.now_s() - beat.member.beat_at > LONG_AGO_S

    def announce(self, url: str) -> None:
        """Tell with the next beat where this node's door is."""
        if self._me is not None:
            self._me = msgspec.structs.replace(self._me, url=url)

    async def beat(self) -> None:
        """Say that this node is there, and hear what the others say.

        Raises:
            EngineUnavailable: no answer.
        """
        if self._me is None or self.lost is not None:
            return
        try:
            await self._write(stopped=False, behind=self._seq)
        except _Overtaken:
            await self._look_who()
        await self.listen()

    async def _look_who(self) -> None:
        found = await self._wire.get(names.NODES, last_by_subj=self._subject)
        beat = None if found is None else _read(found.body)
        if found is None:
            self._seq = 0  # it was removed: too old, or by hand
        elif beat is not None and beat.life == self._life:
            self._seq = found.seq  # written before, and not answered
        else:
            self.lost = _holder(beat)
            log(NAME_LOST, node=self._me.name if self._me else "", holder=self.lost)

    async def leave(self) -> None:
        """Let the name go."""
        if self._seq and self.lost is None:
            with suppress(EngineUnavailable, _Overtaken):  # then it is free after `OVER_S`
                try:
                    await self._write(stopped=True, behind=self._seq)
                except _Overtaken:  # a beat was stored that was cut off before its answer came
                    await self._look_who()
                    if self.lost is None:
                        await self._write(stopped=True, behind=self._seq)

    async def _write(self, *, stopped: bool, behind: int) -> None:
        assert self._me is not None  # noqa: S101  # whoever beats has joined
        self._me = msgspec.structs.replace(self._me, beat_at=self._clock.now_s())
        body = _encode(Beat(member=self._me, life=self._life, stopped=stopped))
        expected = {"Nats-Expected-Last-Subject-Sequence": str(behind)}
        try:
            self._seq = (await self._wire.put(Item(self._subject, "", body, expected))).seq
        except Refused as refused:
            if refused.code == _WRONG_LAST_SEQUENCE:
                raise _Overtaken from refused
            raise EngineUnavailable(f"{names.NODES}: {refused}") from refused

    async def listen(self) -> None:
        """Read the last word of every node.

        Raises:
            EngineUnavailable: no answer.
        """
        now, wall = asyncio.get_running_loop().time(), self._clock.now_s()
        heard: dict[str, Heard] = {}
        after = 0
        while True:
            page = await self._wire.read(names.NODES, "ef.node.*", after, _PAGE)
            for message in page:
                name = names.ref_of(message.subject)
                known = self._heard.get(name)
                beat = _read(message.body)
                if known is not None and known.seq == message.seq:
                    heard[name] = known
                elif beat is not None:
                    # Of one not heard before, only its own clock says how long ago that was.
                    ago_s = 0.0 if known else max(0.0, wall - beat.member.beat_at)
                    heard[name] = Heard(message.seq, now - ago_s, beat)
            if len(page) < _PAGE:
                break
            after = page[-1].seq
        self._heard = heard

    def members(self) -> Sequence[Member]:
        """Return all nodes there are or were lately, by name."""
        now = asyncio.get_running_loop().time()
        return [
            msgspec.structs.replace(
                heard.beat.member, state=state_of(now - heard.at, stopped=heard.beat.stopped)
            )
            for _, heard in sorted(self._heard.items())
        ]

    @property
    def _subject(self) -> str:
        assert self._me is not None  # noqa: S101  # whoever asks has joined
        return f"ef.node.{names.node_name(self._me.name)}"


async def living(wire: Wire, clock: Clock) -> list[Member]:
    """Return the nodes that are alive, for one who is none of them.

    Raises:
        EngineUnavailable: no answer.
    """
    try:
        await wire.ask(f"STREAM.INFO.{names.NODES}")
    except Refused:  # no node has ever been there
        return []
    membership = Membership(wire, clock)
    await membership.listen()
    return [member for member in membership.members() if member.state == "alive"]


class _Overtaken(Exception):
    """The message under this name is not the one that was expected there."""


def _read(body: bytes) -> Beat | None:
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _holder(beat: Beat | None) -> str:
    if beat is None:
        return "a node of another release"
    member = beat.member
    door = f", {member.url}" if member.url else ""
    return f"{member.where}, since {rfc3339(member.started_at)}{door}"
