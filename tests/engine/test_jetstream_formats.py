"""Nodes of two releases on the same streams: what one can't read it leaves to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.engine.test_jetstream import OnOneServer

from eventflow.delivery import COMMON
from eventflow.engine.jetstream import names
from eventflow.engine.jetstream.wire import Item, Wire
from eventflow.engine.protocol import Plan, TopicPlan
from eventflow.errors import EngineUnavailable
from eventflow.testing.engine_bench import EngineBench, bring, event, ids, lease, topic

if TYPE_CHECKING:
    from eventflow.engine.jetstream.engine import JetStreamEngine

pytestmark = pytest.mark.slow  # a real server

PLAN = Plan(topics={COMMON: TopicPlan(20), "a": TopicPlan(20, 20)})


def later(what: Any) -> bytes:
    """Return a message as a later release may write it."""
    return msgspec.msgpack.encode((99, what))


class TestFormats(OnOneServer, EngineBench):
    async def put(self, engine: JetStreamEngine, item: Item) -> None:
        wire = await Wire.connect(self.server.url, 1)
        await wire.put(item)
        await wire.close()
        await engine.refresh()

    async def test_a_delivery_of_a_later_release_is_left_to_it(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = await self.start(PLAN)
        strange = names.subject(
            topic("a"), event("strange"), "01890a5d-ac96-774b-bcce-b302099a8057"
        )
        await self.put(engine, Item(strange, "strange:0", later({"anything": True})))
        await bring(engine, "a", event("known"))

        found = await lease(engine, topic("a"))
        again = await lease(engine, topic("a"))

        assert ids(found) == ["known"]
        assert not again
        assert engine.depth("a").queued == 1  # it is still there
        (doubt,) = [one for one in engine.doubts if one.what == "messages of EF_T_a"]
        assert doubt.found == "message 1 is written in format 99, this EventFlow reads format 1"
        assert caplog.text.count("message.unread") == 1
        await engine.close()

    async def test_a_node_counts_on_beside_a_record_of_a_later_release(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = await self.start(PLAN)
        subject = names.ledger_subject("n9")
        await self.put(engine, Item(subject, "", later(["anything"])))
        await bring(engine, "a", event("known"))
        await engine.refresh()

        assert engine.counts("a").created == 1
        assert "the ledger of node n9 is written in format 99" in caplog.text
        await engine.close()

    async def test_a_node_does_not_start_over_its_own_record_of_a_later_release(self) -> None:
        engine = await self.start(PLAN)
        await engine.close()
        await self.put_raw(names.ledger_subject("n1"))

        with pytest.raises(EngineUnavailable, match="node n1 is written in format 99"):
            await self.start(PLAN)

    async def put_raw(self, subject: str) -> None:
        wire = await Wire.connect(self.server.url, 1)
        await wire.put(Item(subject, "", later(["anything"])))
        await wire.close()
