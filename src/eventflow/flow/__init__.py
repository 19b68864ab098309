"""The way of an event, one stage a file, in this order.

    ingress     hold it against the rules, refuse it or have it stored in common
    gather      small requests that come at the same time are accepted together
    router      from common into the topics its routes name
    topic       what a topic is, how fast it goes, whether it may go
    worker      run the topic's handler, as many at once as it may
    handlers    what a handler is
    feed        a leased run of plain deliveries, shared by the slots
    slots       how one is run, with its timeout
    executors   where one is run that must not be in the loop: a thread, a process
    failures    what an exception means
    gate        lets a delivery that was there at a crash run alone
    schemas     JSON Schemas that data must fit
    settler     end the leases of what has finished, a batch at a time
    retry_lane  what is due goes back to its topic, or on to storage
    recovery    what is parked comes back when its topic has room
    stages      recovery, lane and worker of one topic, changed while the node runs
    ledger      counts, rates and the history of what was settled
    audit       seals the trail: the ends of its chains go to the log
    watchdog    names a handler that blocks the loop
    supervise   keeps the task of a stage going
    node        all of them together: start, change, drain, stop

Decisions are `eventflow.policy`'s; what must not be lost is the engine's. A test keeps this list
and the files of this folder the same.
"""
