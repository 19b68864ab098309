"""The JetStream engine: queues are bounded work-queue streams on NATS servers.

gate        what servers must be like for the promises to hold
monitoring  what servers say of themselves at their monitoring ports
names       what streams, consumers and subjects are called
stored      what stands in a message
access      who this node is to the servers, and whom it trusts
client      a connection that holds on, and says what holds it up
examining   what a node would meet on the servers, without changing anything
wire        the connection: requests, and what their answers mean
answers     how leases end, many at once
publishing  many messages into one stream
pulling     pull requests to a consumer
layout      the streams and consumers that a plan asks for
streams     declaring them up front
watch       whether the servers are, and stay, as the promises need them
notes       what is new of deliveries that stay where they are
counting    who counts what in the ledger
marks       the most that each place ever counted
depths      how full the streams are
ends        what messages' ends were counted as
ledger      what each node has counted
untold      audit rows that storage has still to be told
membership  which nodes there are, and whose name is whose
desk        what all of the following share
operators   what operators have set, for all nodes
leasing     by the frame of weights, or by what is due
entrance    many events into one queue, each call all or nothing
doors       accepting events
settling    ending leases
forgets     what storage has still to forget
placing     bringing deliveries back from storage
carrying    all of a file, as it is
looking     finding, walking, counting
engine      the promises G1 to G8, kept with the above
"""

from eventflow.engine.jetstream.engine import JetStreamEngine, open_engine
from eventflow.engine.jetstream.examining import examine
from eventflow.engine.jetstream.names import node_name

__all__ = ["JetStreamEngine", "examine", "node_name", "open_engine"]
