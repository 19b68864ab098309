"""The `sql` sink: each event is a row, written once however often it is delivered.

    rows        from an event to the values of its row
    table       the table as the database has it, or made; the statement that writes rows
    database    one connection: how a database is opened, asked to end its waits, told apart
    faults      what an error of a database means
    sink        a batch is a transaction; a faulty row is found by halving, and costs no other

It runs in threads of its topic: all its calls block.
"""

from eventflow.sinks.sql.sink import SqlSink

__all__ = ["SqlSink"]
"""What `make_sink` makes."""
