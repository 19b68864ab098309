"""A node through a day of trouble, on virtual time: bursts, outages, deaths, storage in trouble.

    from eventflow import Event, EventFlow
    from eventflow.testing.simulation import simulate

    def shop(surroundings) -> EventFlow:
        flow = EventFlow(engine="sqlite:shop.db", surroundings=surroundings)

        @flow.topic("email", match="order.*", capacity=50)
        async def send(event: Event) -> None: ...

        return flow

    def order(chance, n, now_s) -> Event:
        return Event(type="order.placed", source="/shop", id=str(n))

    report = simulate(shop, order, seed=7)

The node is the real one, with the real engine on real SQLite; only time, chance and the disk are
not real: a `CrashDisk` that keeps what was synced. What is held against DESIGN at every step
stands in `watch`; a promise that does not hold raises `Broken` with the seed. In the end all
trouble is over, everything has to come to its end, and every accepted event to be where its
handlers' runs say.

    weather   what befalls the node: drawn from the seed, or given
    life      one process of it, from start to death
    watch     engine and storage, each call and answer looked at
    book      where each delivery is, from the answers alone
    laws      what a row of DESIGN's table may do to the counts of a delivery
    weights   how starts are shared among priorities
    day       lives, one after the other, and the account in the end
"""

from eventflow.testing.simulation.book import Broken
from eventflow.testing.simulation.day import Report, simulate
from eventflow.testing.simulation.weather import (
    Burst,
    Doing,
    Dying,
    Outage,
    Span,
    Wave,
    Weather,
    draw,
)

__all__ = [
    "Broken",
    "Burst",
    "Doing",
    "Dying",
    "Outage",
    "Report",
    "Span",
    "Wave",
    "Weather",
    "draw",
    "simulate",
]
