"""What servers must be like: each judgement by what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from eventflow.engine.jetstream import gate
from eventflow.engine.jetstream.gate import DOUBTFUL, GOOD, REFUSED, Difference, Member, Verdict
from eventflow.engine.jetstream.layout import Layout
from eventflow.engine.protocol import Plan, TopicPlan
from eventflow.errors import EngineUnavailable

KIB = 2**10

JUDGED: dict[str, tuple[Verdict, str, str]] = {
    "old": (gate.server("nats://a", "2.11.9"), REFUSED, "expected 2.12 or later"),
    "older": (gate.server("nats://a", "1.4"), REFUSED, "nats-server 1.4 at nats://a"),
    "not new": (gate.server("nats://a", "2.12.0-RC.1"), DOUBTFUL, "2.15 or later is recommended"),
    "new": (gate.server("nats://a", "2.15.1"), GOOD, "nats-server 2.15.1 at nats://a"),
    "newer": (gate.server("nats://a", "3.0.0"), GOOD, "3.0.0"),
    "in the clear": (gate.connection("nats://n1:4222", "shop", None), DOUBTFUL, "in the clear"),
    "on this machine": (gate.connection("nats://[::1]:4222", "-", None), GOOD, "this machine"),
    "one is elsewhere": (
        gate.connection("nats://127.0.0.1:1,nats://n2:1", "-", None),
        DOUBTFUL,
        "in the clear",
    ),
    "encrypted": (gate.connection("tls://n1:4222", "shop", "TLSv1.3"), GOOD, "(TLSv1.3)"),
    "for ever": (gate.credentials(0.0, 1e9), GOOD, "do not end"),
    "for a month": (gate.credentials(1e9 + 30 * 86_400, 1e9), GOOD, "end in 30 days"),
    "for a day": (gate.credentials(1e9 + 86_400, 1e9), DOUBTFUL, "end in 1 days"),
    "no more": (gate.credentials(1e9 - 1, 1e9), REFUSED, "ended at 2001-09-09"),
    "no API": (gate.api(1), REFUSED, "expected 2 or higher, got 1"),
    "an API": (gate.api(2), GOOD, "2"),
    "syncs": (gate.syncing([], "fsync"), GOOD, "sync_interval: always"),
    "lazy": (gate.syncing(["http://a"], "fsync"), REFUSED, "got sync_always off at http://a"),
    "lazy, and said": (gate.syncing(["http://a"], "os"), DOUBTFUL, "a power cut loses"),
    "nobody asked": (gate.syncing(None, "fsync"), DOUBTFUL, "[engine] monitor is not set"),
    "silent": (gate.silent("http://a", "refused"), DOUBTFUL, "http://a does not answer"),
    "payload": (gate.payload(1024 * KIB, 896 * KIB), GOOD, "1,048,576 bytes"),
    "small payload": (gate.payload(1024 * KIB, 896 * KIB + 1), REFUSED, "917,505 and 128 KiB"),
    "clock": (gate.clock("a", 1.0, 0.0), GOOD, "within 1 s of a"),
    "clock, slow answer": (gate.clock("a", 11.0, 10.5), GOOD, "within 1 s"),
    "clock ahead": (gate.clock("a", 2.5, 0.5), DOUBTFUL, "a 2.0 s ahead of this node"),
    "clock behind": (gate.clock("a", -12.0, 1.0), REFUSED, "a 11.0 s behind this node"),
    "alone": (gate.servers(1, clustered=False), GOOD, "nothing is accepted while"),
    "alone of three": (gate.servers(3, clustered=False), REFUSED, "got one server alone"),
    "two of three": (gate.servers(3, clustered=True, there=2), REFUSED, "got 2 servers"),
    "three": (gate.servers(3, clustered=True, there=3), GOOD, "3, of 3 servers"),
    "three of some": (gate.servers(3, clustered=True), GOOD, "3"),
    "no places": (gate.unplaced(3), REFUSED, "expected 3 servers that are up and have room"),
    "one among some": (gate.servers(1, clustered=True, there=3), DOUBTFUL, "1, while the servers"),
    "on all": (
        gate.members("EF_X", 3, [Member("a", current=True), Member("b", current=True)]),
        GOOD,
        "3 of 3",
    ),
    "one behind": (
        gate.members("EF_X", 3, [Member("a", current=False), Member("b", current=True)]),
        DOUBTFUL,
        "expected it on 3 servers, got 2: a is behind",
    ),
    "one away": (
        gate.members(
            "EF_X", 3, [Member("a", current=True, offline=True), Member("b", current=True)]
        ),
        DOUBTFUL,
        "a is away",
    ),
    "no others": (gate.members("EF_X", 3, []), DOUBTFUL, "got 1: there are no others"),
}


@pytest.mark.parametrize("case", JUDGED)
def test_each_judgement(case: str) -> None:
    verdict, state, said = JUDGED[case]

    assert verdict.state == state
    assert said in verdict.found
    assert bool(verdict.advice) == (state != GOOD)


def test_both_numbers_of_a_payload_and_both_settings_are_named() -> None:
    verdict = gate.payload(1_048_576, 1_048_576)

    assert str(verdict) == (
        "max_payload: expected 1,179,648 bytes or more ([common] max_event 1,048,576 and 128 KiB "
        "for what goes with it), got 1,048,576. Set max_payload: 2MB in the servers' "
        'configuration, or lower [common] max_event to "896KiB"'
    )


# streams ---------------------------------------------------------------------------------

PLAN = Plan({"common": TopicPlan(100), "mail": TopicPlan(10, 20)})
COMMON = next(one for one in Layout(1).queues(PLAN) if one.name == "EF_COMMON").stream
ANSWER: dict[str, Any] = {  # as nats-server 2.15.1 shows it
    **COMMON,
    "max_consumers": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "compression": "none",
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "consumer_limits": {},
    "metadata": {"_nats.level": "5"},
}


def found(**changed: Any) -> str:
    differing = gate.differences(COMMON, ANSWER | changed, gate.STREAM_REST)
    return "; ".join(map(str, differing))


def test_what_a_server_shows_of_what_was_asked_is_no_difference() -> None:
    assert found() == ""
    assert found(allow_msg_ttl=True, compression="s2", description="x") == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"retention": "limits"}, "retention expected workqueue, found limits"),
        ({"discard": "old"}, "discard expected new, found old"),
        ({"storage": "memory"}, "storage expected file, found memory"),
        ({"persist_mode": "async"}, "persist_mode expected default, found async"),
        ({"max_msgs": 5}, "max_msgs expected 100, found 5"),
        ({"max_age": 3_600 * 10**9}, "max_age expected 0 s, found 3600 s"),
        ({"max_bytes": 1_000}, "max_bytes expected -1, found 1,000"),
        ({"num_replicas": 3}, "num_replicas expected 1, found 3"),
        ({"allow_atomic": None}, "allow_atomic expected True, found nothing"),
        ({"sources": [{"name": "x"}]}, "sources expected nothing, found [{'name': 'x'}]"),
        ({"duplicate_window": 10**9}, "duplicate_window expected 600 s, found 1 s"),
        ({"sealed": True}, "sealed expected False, found True"),
    ],
)
def test_each_field_that_somebody_changed_is_named(changed: dict[str, Any], said: str) -> None:
    assert found(**changed) == said


def test_every_consumer_is_for_its_own_and_remembers() -> None:
    queues = {one.name: one for one in Layout(3, rate=2.0).queues(PLAN)}

    assert list(queues) == ["EF_T_mail", "EF_R_mail", "EF_COMMON"]
    assert list(queues["EF_R_mail"].consumers) == ["mover"]
    assert [one["filter_subject"] for one in queues["EF_T_mail"].consumers.values()] == [
        f"ef.t.mail.{rank}.*.*.*" for rank in ("critical", "high", "normal", "low")
    ]
    mover = queues["EF_R_mail"].consumers["mover"]
    held = {**mover, "name": "mover", "max_waiting": 512, "deliver_policy": "all"}
    assert gate.differences(mover, held, gate.CONSUMER_REST) == ()
    changed = gate.differences(mover, {**held, "pause_until": "2030"}, gate.CONSUMER_REST)
    assert changed == (Difference("pause_until", None, "2030"),)


def test_what_follows_the_configuration_is_no_fault() -> None:
    assert gate.follows(Difference("max_msgs", 5, 6))
    assert gate.follows(Difference("max_age", 600, 500))
    assert not gate.follows(Difference("max_age", 0, 500))
    assert not gate.follows(Difference("discard", "new", "old"))


@pytest.mark.parametrize(
    ("done", "state", "said"),
    [
        ("refused", REFUSED, "configured otherwise: a expected 1, found 2"),
        ("put right", DOUBTFUL, "was configured otherwise: a expected 1, found 2; put right"),
        ("left", DOUBTFUL, "configured otherwise: a expected 1, found 2"),
    ],
)
def test_what_was_done_about_it_is_said(done: str, state: str, said: str) -> None:
    verdict = gate.otherwise("stream X", [Difference("a", 1, 2)], done)

    assert (verdict.state, verdict.found) == (state, said)


def test_all_that_is_refused_is_told_at_once() -> None:
    verdicts = [gate.api(1), gate.api(5), gate.servers(3, clustered=False), gate.api(0)]

    with pytest.raises(EngineUnavailable) as caught:
        gate.insist(verdicts)
    assert str(caught.value).count("expected") == 3
    gate.insist([gate.api(5), gate.syncing(None, "fsync")])
