"""Tools for tests: virtual time, a seeded order, clocks turned by hand, disks that lose power."""

from eventflow.testing.clock import EPOCH_S, ManualClock, VirtualClock
from eventflow.testing.crash_vfs import CrashDisk, DiskImage, PowerCut
from eventflow.testing.loop import Stuck, TooManySteps, VirtualLoop, run

__all__ = [
    "EPOCH_S",
    "CrashDisk",
    "DiskImage",
    "ManualClock",
    "PowerCut",
    "Stuck",
    "TooManySteps",
    "VirtualClock",
    "VirtualLoop",
    "run",
]
