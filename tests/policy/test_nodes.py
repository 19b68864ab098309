"""Who is there, and what nobody does."""

from __future__ import annotations

import pytest

from eventflow.policy.nodes import OVER_S, ROLES, state_of, undone


@pytest.mark.parametrize(
    ("quiet_s", "stopped", "state"),
    [
        (0.0, False, "alive"),
        (OVER_S - 0.001, False, "alive"),
        (OVER_S, False, "missing"),
        (1e9, False, "missing"),
        (0.0, True, "stopped"),
        (1e9, True, "stopped"),
    ],
)
def test_a_node_is_alive_until_it_was_quiet_for_too_long(
    quiet_s: float,
    stopped: bool,  # noqa: FBT001  # a value, not an option
    state: str,
) -> None:
    assert state_of(quiet_s, stopped=stopped) == state


def test_what_no_living_node_does_is_named() -> None:
    assert undone([]) == ROLES
    assert undone([ROLES]) == ()
    assert undone([("accept",), ("deliver", "accept")]) == ("route", "recover")
    assert undone([(*ROLES, "a role of a later release")]) == ()
