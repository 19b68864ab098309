"""Policies out of range are refused, with the setting's name; the defaults are the manual's."""

from __future__ import annotations

from typing import Any

import pytest

from eventflow.errors import ConfigError
from eventflow.policy.backoff import Backoff
from eventflow.policy.values import Fullness, RecoveryPolicy, RetryPolicy, TopicPolicy


def test_the_defaults_are_the_manuals() -> None:
    """5 attempts a round, 2 rounds, 10 overflows, back after 15 min at 10 %."""
    assert TopicPolicy() == TopicPolicy(
        retry=RetryPolicy(
            max_attempts=5,
            backoff=Backoff(),
            max_overflows=10,
            max_in_queue_s=600,
            max_postponed=100,
        ),
        recovery=RecoveryPolicy(
            max_rounds=2, after_s=900, low_water=0.5, rate_share=0.1, rate_per_s=None
        ),
    )


def test_a_topic_of_which_nothing_is_known_is_empty() -> None:
    assert Fullness() == Fullness(queued=0, running=0, capacity=0, retrying=0, lane_capacity=0)


@pytest.mark.parametrize(
    ("kind", "settings", "problem"),
    [
        (RetryPolicy, {"max_attempts": 0}, "max_attempts: expected 1 or more, got 0"),
        (RetryPolicy, {"max_overflows": -1}, "max_overflows: expected 0 or more, got -1"),
        (RetryPolicy, {"max_in_queue_s": -1.0}, "max_in_queue: expected 0 or more, got -1.0"),
        (RetryPolicy, {"max_postponed": -1}, "max_postponed: expected 0 or more, got -1"),
        (RecoveryPolicy, {"max_rounds": 0}, "max_rounds: expected 1 or more, got 0"),
        (RecoveryPolicy, {"after_s": float("inf")}, "after: expected 0 or more, got inf"),
        (RecoveryPolicy, {"low_water": 0.0}, "low_water: expected above 0 to 1 (100 %), got 0.0"),
        (RecoveryPolicy, {"low_water": 1.1}, "low_water: expected above 0 to 1 (100 %), got 1.1"),
        (RecoveryPolicy, {"rate_share": 1.1}, "rate: expected 0 to 1 (100 %), got 1.1"),
        (RecoveryPolicy, {"rate_per_s": -1.0}, "rate: expected 0 or more, got -1.0"),
    ],
)
def test_a_policy_out_of_range_is_refused(
    kind: type[Any], settings: dict[str, float], problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        kind(**settings)

    assert raised.value.problems == (problem,)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (RetryPolicy, {"max_overflows": 0, "max_in_queue_s": 0.0, "max_postponed": 0}),
        (RecoveryPolicy, {"after_s": 0.0, "low_water": 1.0, "rate_share": 0.0, "rate_per_s": 0.0}),
    ],
)
def test_the_edges_are_allowed(kind: type[Any], settings: dict[str, float]) -> None:
    """0 is 0, not "take the default"."""
    policy = kind(**settings)

    assert {name: getattr(policy, name) for name in settings} == settings
