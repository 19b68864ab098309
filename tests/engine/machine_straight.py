"""What rules know of events that go straight into their topics, past common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.engine.machine_model import PLAN, SEEN, TOPICS
from tests.engine.machine_rules import EngineRules

from eventflow.delivery import COMMON, Delivery
from eventflow.errors import QueueFull
from eventflow.testing.engine_bench import topic, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.engine.protocol import Way
    from eventflow.engine.runs import Receipts
    from eventflow.event import Event


class StraightRules(EngineRules):
    def _arrive(self, given: Sequence[Event], ways: Sequence[Way]) -> None:
        """Accept events of which it is known where they go."""
        try:
            receipts = self.run(self.engine.accept(given, ways))
        except QueueFull:
            self._refused([*given])
            return
        self._accepted(given, receipts)
        SEEN["straight" if receipts.ways else "not straight"] += 1
        self._arrived(given, receipts)

    def _make_room(self) -> None:
        """End all that waits in common, or is leased there, and half of what waits in topics."""
        self.lease_common(20)
        for name in TOPICS:
            self.lease(name, PLAN.topics[name].capacity // 2)
        for one in self.leases[:]:
            if one.lease.queue.kind == "topic" and not self._over(one.until):
                self._settle([one], [["delivered"]])

    def _arrived(self, given: Sequence[Event], receipts: Receipts) -> None:
        for way in receipts.ways:
            refs = [receipts[at].ref or "" for at in way.indexes]
            for ref, at in zip(refs, way.indexes, strict=True):
                self._ended(f"{ref}.{COMMON}")
                for name in way.topics:
                    self._created(Delivery(given[at], ref, name, 0.0), "queued")
            for name in way.topics:
                waiting = [one.ref for one in self.run(walk(self.engine, topic(name)))]
                assert [ref for ref in waiting if ref in refs] == refs
