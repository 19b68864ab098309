"""The worker of a shop: keeps its events, books orders in a database, confirms them by mail.

python worker.py
"""

import sqlite3
from dataclasses import dataclass

from eventflow import Batch, Delivery, Event, EventFlow, InvalidEvent, Permanent

flow = EventFlow(engine="sqlite:worker.db")


@dataclass
class Order:
    """What an event of type order.placed has as its data."""

    number: int
    email: str
    total: float


@flow.topic("books", match="order.placed", batch=Batch(max=200, linger="20ms"))
def book(events: list[Event]) -> list[Exception | None]:
    """Book orders, many in one transaction. A plain function runs in a thread: it may block."""
    outcomes: list[Exception | None] = []
    with sqlite3.connect("orders.db") as database:
        database.execute("CREATE TABLE IF NOT EXISTS orders (event_key PRIMARY KEY, number, total)")
        for event in events:
            try:
                order = event.decode(Order)
            except InvalidEvent as error:
                outcomes.append(error)  # dead at once; the others are booked
                continue
            # An event may come twice, with the same key each time: it is booked once.
            row = (event.key, order.number, order.total)
            database.execute("INSERT INTO orders VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row)
            outcomes.append(None)
    return outcomes


@flow.topic(
    "mails",
    match="order.placed",
    concurrency=16,
    timeout="10s",
    retry={"max_attempts": 5, "base": "1s"},
)
async def confirm(event: Event, delivery: Delivery) -> None:
    """Confirm an order. What this raises is tried again, later and later."""
    order = event.decode(Order)
    if "@" not in order.email:
        raise Permanent(f"{order.email!r} is no address")  # no attempt would help
    await send(order.email, f"Thank you for order {order.number}.", delivery.attempt)


async def send(address: str, text: str, attempt: int) -> None:
    """Send a mail: put the call of your mail service here."""
    print(f"to {address}: {text} (attempt {attempt})", flush=True)


if __name__ == "__main__":
    flow.run()
