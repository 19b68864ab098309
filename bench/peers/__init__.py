"""(g) Other queues, beside EventFlow's (b): Celery, Dramatiq, Taskiq and BullMQ, on Redis.

Each gets the events of `bench.payload`, hands each to a handler that only counts in memory, and
acknowledges it. Redis runs beside it, without fsync or with (`appendonly yes`, `appendfsync
always`): the latter is what EventFlow does before it accepts. Two figures, since either can be the
better one:

    per_s           from the first publish until the last event is handled, all at once: as (b)
    drained_per_s   all published before; what the workers alone then handle in a second

    __main__        one peer, once: `python -m bench.peers bullmq --fsync`
    installing      the peers in a folder of their own: none of them is ours
    redis           a Redis server of its own
    counts          how many events all worker processes have handled
    sending         how a program that publishes is told what
    celery_tasks, dramatiq_tasks, taskiq_tasks, bullmq.mjs
                    the peers, each with the best settings that its documentation gives

What they need to be measured is not installed with EventFlow.
"""
