"""The settings of one topic: a frozen value a table.

The annotation of a field says its unit and range, the assignment its default, the first
paragraph of its docstring what it is, the rest why default and range are as they are.
A number in Python carries its unit in the name (`timeout_s`), in TOML in the value ("10s").
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from eventflow.config import texts
from eventflow.config.kinds import Integer, Number
from eventflow.config.quantities import Duration, ShareOrRate
from eventflow.config.schema import ByType, Many
from eventflow.config.sinks import SinkSettings
from eventflow.config.units import DAY_S, Share

MOST_DELIVERIES = 10_000_000
TENTH = Share(0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """`batch`: the handler takes a list of events."""

    max: Annotated[int, Integer(1, 10_000, "events")] = 500
    """Events in one call, at most.

    From some hundred on, one more adds little to the speed of what is written in batches; past
    ten thousand one failure repeats too much.
    """

    linger_s: Annotated[float, Duration(0.0, 60.0)] = 0.02
    """How long a call waits for its list to fill.

    Short enough not to be seen by a person, long enough to collect a burst. "0s" takes what is
    there.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """`retry`: what happens to deliveries that failed, or found their topic full."""

    max_attempts: Annotated[int, Integer(1, 1_000, "attempts")] = 5
    """Runs in one round; after the last one the delivery is parked or dead.

    With the default waits five attempts span up to 15 seconds: time for a target to restart.
    What is down for longer is the matter of `recovery`.
    """

    base_s: Annotated[float, Duration(0.001, 3_600.0)] = 1.0
    """The wait after the first failure, before jitter.

    Most failures that heal do so within a second.
    """

    factor: Annotated[float, Number(1.0, 100.0)] = 2.0
    """How much longer each wait is than the one before.

    Doubling halves the load on a target in trouble with every round of retries. 1.0 keeps the
    wait as it is.
    """

    max_s: Annotated[float, Duration(0.001, 7 * DAY_S)] = 300.0
    """The longest wait, before jitter. At least `base`.

    After an outage deliveries come within five minutes, and not hours later.
    """

    jitter: Literal["none", "full", "equal", "decorrelated"] = "full"
    """How chance shortens the waits, so that deliveries which failed together don't return so.

    `full` draws from nothing to the whole wait, `equal` from half of it, `decorrelated` from
    `base` to three times the wait before. `full` spreads load most evenly.
    """

    capacity: Annotated[int, Integer(1, MOST_DELIVERIES, "deliveries")] = 20_000
    """Deliveries the topic's lane of the retry queue holds; what is more is parked.

    Twice the topic's own default: a full topic and as much again may fail.
    """

    max_overflows: Annotated[int, Integer(0, 1_000, "times")] = 10
    """How often a delivery may find its topic full before it is parked.

    With the default waits ten overflows span up to 13 minutes. 0 parks at once.
    """

    max_in_queue_s: Annotated[float, Duration(1.0, 30 * DAY_S)] = 600.0
    """A delivery due later than this is parked instead of kept in the lane.

    The lane is memory; storage is cheaper for what sleeps. At least twice `max` keeps ordinary
    retries in the lane.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySettings:
    """`recovery`: how parked deliveries come back."""

    max_rounds: Annotated[int, Integer(1, 100, "rounds")] = 2
    """Rounds of attempts before a delivery is dead; between them it is parked.

    Two rounds of five attempts: a second chance after a longer outage, and no target that is
    wrong for good is called for ever.
    """

    after_s: Annotated[float, Duration(1.0, 30 * DAY_S)] = 900.0
    """The wait between two rounds.

    Longer than the span of a round, or the second one meets the same outage.
    """

    low_water: Annotated[float, Number(0.01, 1.0)] = 0.5
    """Parked deliveries come back while the topic is filled less than this.

    Half leaves room for what is new. Never 0: nothing would come back.
    """

    rate: Annotated[Share | float, ShareOrRate(1_000_000.0)] = TENTH
    """How fast they come back: a share of what the topic delivers, or so many per second.

    A tenth lets old work through without pushing out new. While nothing new waits it is
    everything.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """`[topics.NAME]`: a destination with its own bounded queue."""

    name: Annotated[str, texts.TOPIC_NAME]
    """The topic's name: the table's.

    It is part of metric labels, delivery ids and subjects, so it is short and plain.
    """

    match: Annotated[tuple[str, ...], Many(texts.EVENT_TYPES)] = ()
    """Event types that go here; `*` within a dot-segment, `**` across. United with `routes`.

    None by default: `routes` may lead here.
    """

    handler: Annotated[str, texts.HANDLER] | None = None
    """The function that takes the events, as `module:function`. This or `sink`.

    Functions registered in Python need none.
    """

    sink: Annotated[SinkSettings, ByType()] | None = None
    """The built-in handler that takes the events. This or `handler`.

    There is no default for where events go.
    """

    capacity: Annotated[int, Integer(1, MOST_DELIVERIES, "deliveries")] = 10_000
    """Deliveries the queue holds, running ones included; what is more waits in the retry queue.

    Ten thousand events of 1 KiB are some 10 MiB. The last tenth is for critical and high.
    """

    concurrency: Annotated[int, Integer(1, 10_000, "deliveries")] = 16
    """Deliveries that run at the same time on this node.

    Enough to hide the waiting for a target, few enough not to flood it.
    """

    timeout_s: Annotated[float, Duration(0.001, DAY_S)] = 10.0
    """How long one attempt may take.

    A handler without an end would hold its slot for ever. Longer than the slowest good answer.
    """

    executor: Literal["thread", "process"] | None = None
    """Where a handler that is not async runs. Left out: async ones in the event loop, others in
    threads.

    `process` is for work that keeps a CPU busy: threads would take turns.
    """

    batch: BatchSettings | None = None
    """Give the handler lists of events. Left out: one event a call.

    Only handlers that were written for lists can take them.
    """

    order: Literal["none"] = "none"
    """Whether deliveries of one partition key wait for each other.

    Waiting costs throughput, and most handlers don't need it.
    """

    retry: RetrySettings = field(default_factory=RetrySettings)
    """Attempts, waits and the lane of the retry queue.

    Right for targets that are called over a network.
    """

    recovery: RecoverySettings = field(default_factory=RecoverySettings)
    """When and how fast parked deliveries come back.

    Right for targets that recover within an hour.
    """
