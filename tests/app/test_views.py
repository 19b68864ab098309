"""How a delivery is shown."""

from __future__ import annotations

from eventflow.app import views
from eventflow.app.outlook import Surroundings
from eventflow.delivery import Delivery
from eventflow.engine.protocol import Depth
from eventflow.event import from_parts

NOW = 1_795_507_200.0
AROUND = Surroundings(Depth(queued=1, running=1, capacity=10), NOW)


def test_a_time_that_no_calendar_has_in_utc_is_shown_as_none() -> None:
    """Doors refuse it: the end of the year 9999, west of here. A journal may still hold it."""
    late = {"expirytime": "9999-12-31T23:59:59-14:00"}
    event = from_parts("1", "/s", "t", None, None, None, None, None, late)

    shown = views.delivery(Delivery(event, "r", "email", NOW, entered_at=NOW), "queued", AROUND)

    assert shown["expires_at"] is None
    assert shown["since"] == "2026-11-24T08:00:00.000000Z"
