"""The sample events: an ordinary shop, with a few events that can't be delivered."""

from __future__ import annotations

from typing import Any

ORDERS = 120
USERS = 25


def sample_events(run: str) -> list[dict[str, Any]]:
    """Return the sample events as CloudEvents in JSON form.

    Args:
        run: Makes the ids of this run different from those of another.
    """
    events = [
        _event(run, f"order-{n}", "order.created", {"order": n, "total": 10 * n}, str(n))
        for n in range(ORDERS)
    ]
    events += [
        _event(run, f"user-{n}", "user.registered", {"name": f"User {n}", "email": _mail(n)})
        for n in range(USERS)
    ]
    events += [
        # There is no address to send a mail to: dead at once.
        _event(run, "user-without-mail", "user.registered", {"name": "Nobody"}),
        # The endpoint answers 410: gone for good, dead at once.
        _event(run, "invoice-1", "invoice.voided", {"invoice": 1}),
        # The endpoint answers 500 to it always: parked, recovered, tried again, dead in the end.
        _event(run, "invoice-2", "invoice.disputed", {"invoice": 2}),
        # No route takes it: dead in common, until a route is added and it is replayed.
        _event(run, "parcel-1", "parcel.lost", {"parcel": 1}),
    ]
    return events


def _event(
    run: str, id: str, type: str, data: dict[str, Any], partition: str | None = None
) -> dict[str, Any]:
    event = {
        "specversion": "1.0",
        "id": f"{run}-{id}",
        "source": "/quickstart/shop",
        "type": type,
        "datacontenttype": "application/json",
        "data": data,
    }
    return event if partition is None else event | {"partitionkey": partition}


def _mail(n: int) -> str:
    return f"user{n}@example.org"
