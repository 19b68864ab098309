"""What `make run` starts: a node, three destinations that misbehave a little, sample events.

    destinations  an HTTP endpoint, an SQLite database and a mail server, all on this machine
    samples       the events that are sent
    report        what is printed
    __main__      all of it together

The node is an ordinary one with an ordinary configuration (quickstart.toml), in a process of its
own, reached through its own HTTP door.
"""
