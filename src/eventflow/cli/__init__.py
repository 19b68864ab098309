"""The command line: it parses, calls and prints. No decision is made here.

    main       the commands, and which exit status an error means
    commands   what a command is
    page       how a help text looks
    init check serve publish stats export audit backup doctor bench completion
               a command each
    topics     topics, pause, resume
    deliveries deliveries, groups
    event      show, explain
    acts       replay, discard
    asking     questions and acts: to a running node, or to the file of a stopped one
    which      filters: which deliveries are meant
    printing   an answer as JSON, or for people
    tables     aligned tables, times and sizes
    source     publish: from a file, standard input or options to lines
    sender     publish: from lines to a node, on from where it was refused
    patience   publish: how long to keep trying
    node       requests to a node, and what to say when there is no answer
    problems   what to say of an answer that says no
    reference  docs/reference/cli.md

What a command is for goes to standard output, everything else to standard error.
"""

from eventflow.cli.main import main

__all__ = ["main"]
