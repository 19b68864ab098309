"""Tools for tests: virtual time, a seeded order, clocks turned by hand."""

from eventflow.testing.clock import EPOCH_S, ManualClock, VirtualClock
from eventflow.testing.loop import Stuck, TooManySteps, VirtualLoop, run

__all__ = [
    "EPOCH_S",
    "ManualClock",
    "Stuck",
    "TooManySteps",
    "VirtualClock",
    "VirtualLoop",
    "run",
]
