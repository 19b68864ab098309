"""Publishing to a node from another process.

    target      where the node is, and as whom to speak to it
    lines       events as lines, in lists of at most 500
    answers     what a node says: accepted chunks, problems
    exchange    one request and its answer, read as it comes
    patience    how long to try again, how long to wait before
    sending     what to do after each answer, until all lines are accepted or refused
    failures    which error an answer is
    publishing  what both clients share: from a call to exchanges and waits, and back to receipts
    blocking    `Client`: carries exchanges out with http.client, in whatever thread calls
    awaiting    `AsyncClient`: carries them out with aiohttp

Only the last two do I/O. What they have in common is pure, and also what `eventflow publish`
stands on. The sync client runs no event loop in a thread of its own: it can be made before a web
server forks, and a program that never awaits needs no second thread to send an event. Nothing is
imported here: a program that uses `Client` need not load aiohttp.
"""
