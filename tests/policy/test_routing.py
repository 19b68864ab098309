"""Which topics an event goes to."""

from __future__ import annotations

from typing import Any

import pytest

from eventflow.errors import ConfigError
from eventflow.event import Event
from eventflow.policy.expression import compile_expression
from eventflow.policy.routing import REMEMBERED_TYPES, Destinations, Route, Router, compile_routes


def event(type: str = "user.registered", data: Any = None) -> Event:
    return Event(type=type, source="/shop", data=data)


def route(match: str, *topics: str, when: str | None = None) -> Route:
    return Route((match,), topics, None if when is None else compile_expression(when))


def test_the_topics_of_all_matching_routes_are_united_in_their_order() -> None:
    router = compile_routes(
        [
            route("user.*", "email", "db"),
            route("order.*", "api"),
            route("**", "db", "audit"),
            Route(("x", "user.reg*"), ("crm",)),
        ]
    )

    assert router.topics_of(event()) == Destinations(("email", "db", "audit", "crm"))
    assert router.topics_of(event("order.paid")) == Destinations(("api", "db", "audit"))


def test_no_route_takes_it() -> None:
    assert compile_routes([route("user.*", "email")]).topics_of(event("order.paid")).topics == ()
    assert compile_routes([]).topics_of(event()) == Destinations((), filter_errors=0)


def test_a_filter_decides_among_events_of_one_type() -> None:
    router = compile_routes(
        [route("user.*", "fr", when="event.data.country == 'FR'"), route("user.*", "all")]
    )

    assert router.topics_of(event(data={"country": "FR"})).topics == ("fr", "all")
    assert router.topics_of(event(data={"country": "DE"})).topics == ("all",)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({}, "the key is missing"),
        (None, "there is no data"),
        ("FR", "the data is text"),
        (b"\x00", "the data is bytes"),
        ([1], "the data is a list"),
    ],
)
def test_a_filter_that_fails_is_no_match_and_is_counted(data: Any, why: str) -> None:
    router = compile_routes(
        [
            route("**", "fr", when="event.data.country == 'FR'"),
            route("**", "big", when="event.data.total > 10"),
            route("**", "all"),
        ]
    )

    assert router.topics_of(event(data=data)) == Destinations(("all",), filter_errors=2), why


def test_data_that_is_not_the_json_it_says_is_a_failed_filter() -> None:
    router = compile_routes([route("**", "fr", when="event.data.country == 'FR'")])
    broken = Event(type="a", source="/s", data=b"{", datacontenttype="application/json")

    assert router.topics_of(broken) == Destinations((), filter_errors=1)


def test_a_filter_that_says_no_truth_is_a_failed_filter() -> None:
    router = compile_routes([route("**", "fr", when="event.data.country")])

    assert router.topics_of(event(data={"country": "FR"})) == Destinations((), filter_errors=1)


def test_the_filters_of_other_types_are_not_asked() -> None:
    router = compile_routes([route("order.*", "api", when="event.data.total > 10")])

    assert router.topics_of(event()) == Destinations()


def test_what_the_type_decides_is_remembered() -> None:
    """Without a filter, all events of a type share one answer."""
    router = compile_routes([route("user.*", "email"), route("order.*", "x", when="true")])

    assert router.topics_of(event()) is router.topics_of(event())


def test_types_from_outside_do_not_fill_the_memory() -> None:
    router = compile_routes([route("**", "all")])
    for n in range(REMEMBERED_TYPES + 10):
        assert router.topics_of(event(f"t.{n}")).topics == ("all",)
    router.topics_of(event("y" * 256))
    router.topics_of(event("x" * 257))

    remembered = remembered_types(router)
    assert len(remembered) == REMEMBERED_TYPES == 4096
    assert "t.10" not in remembered
    assert "t.11" in remembered
    assert "y" * 256 in remembered
    assert "x" * 257 not in remembered


def remembered_types(router: Router) -> set[str]:
    return set(router._by_type)  # noqa: SLF001  # memory is what the test is about


def test_routes_that_can_take_nothing_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        compile_routes(
            [route("a", "t"), Route((), ("t",)), Route(("a",), ()), Route(("a", ""), ("t",))]
        )

    assert raised.value.problems == (
        "route 2: match: expected at least one pattern such as 'user.*', got none",
        "route 3: topics: expected at least one, got none",
        "route 4: match: expected a pattern such as 'user.*', got ''",
    )
