"""The whole of EventFlow behind one class: engine, stages, doors, put together by the settings.

eventflow   the public class: topics by decorator, publish, drain, run
build       from settings to policies, topics, routes and an open engine
importing   from "module:name" to what it names
door        what the HTTP door asks of a node
views       how topics, deliveries and events are shown as JSON
stopped     the same door over the file of a node that is not running
listing     pages of deliveries, and all events for an export
outlook     what holds a delivery, what is next, and when
story       an event's trouble as sentences
serving     a node with its door, until a signal
measure     events a second and latency, of a configuration too
"""

from eventflow.app.eventflow import EventFlow

__all__ = ["EventFlow"]
