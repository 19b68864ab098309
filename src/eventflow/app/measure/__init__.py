"""What a node does in a second, and how late: for `eventflow bench`, and for the project's bench/.

lateness   how late handlers are called
rate       events a second, from publish until all is settled
latency    an open loop: events that are due at their time, however slow the ones before them are
samples    events that go to a configuration's topics
trial      both for the topics and routes of a configuration, on a journal of its own
"""

from eventflow.app.measure.trial import Bounds, Report, trial

__all__ = ["Bounds", "Report", "trial"]
