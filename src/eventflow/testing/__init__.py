"""Tools for tests: your node on virtual time, handlers that fail, clocks, disks that lose power.

    trial, on_virtual_time          a node of yours in a test, in memory, in no time
    settle, census                  let time pass until nothing waits; the ledger
    Recorder, FailsTimes, Scripted  handlers that remember, and fail as told
    virtual, started                for a node that a test makes itself
    run, VirtualLoop                the loop whose time is virtual
    VirtualClock, ManualClock       clocks that follow it, or are turned by hand
    CrashDisk                       a disk that can lose its power

`eventflow.testing.simulation` has whole days of trouble, `eventflow.testing.engine_contract` the
promises that every engine keeps.
"""

from eventflow.testing.clock import EPOCH_S, ManualClock, VirtualClock
from eventflow.testing.crash_vfs import CrashDisk, DiskImage, PowerCut
from eventflow.testing.handlers import FailsTimes, Recorder, Scripted
from eventflow.testing.harness import census, on_virtual_time, settle, started, trial, virtual
from eventflow.testing.loop import Stuck, TooManySteps, VirtualLoop, run

__all__ = [
    "EPOCH_S",
    "CrashDisk",
    "DiskImage",
    "FailsTimes",
    "ManualClock",
    "PowerCut",
    "Recorder",
    "Scripted",
    "Stuck",
    "TooManySteps",
    "VirtualClock",
    "VirtualLoop",
    "census",
    "on_virtual_time",
    "run",
    "settle",
    "started",
    "trial",
    "virtual",
]
