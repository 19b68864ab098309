"""The Python handlers of the quickstart: what a user would write for a database and for mail."""

from __future__ import annotations

import os
import smtplib
import sqlite3
import time
from contextlib import closing
from email.message import EmailMessage
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventflow import Event

QUERY_S = 0.02
"""A slow database: the topic's small queue overflows during a burst."""


def store(event: Event) -> None:
    """Write the event to a table; written twice it is there once."""
    time.sleep(QUERY_S)
    with closing(sqlite3.connect(os.environ["QUICKSTART_DB"], timeout=5)) as database, database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS events (event_key TEXT PRIMARY KEY, type TEXT, data TEXT)"
        )
        database.execute(
            "INSERT INTO events VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (event.key, event.type, (event.body or b"null").decode()),
        )


def send_welcome(event: Event) -> None:
    """Send a mail; its Message-ID is the event's key, so a second copy can be told."""
    message = EmailMessage()
    message["From"] = "shop@example.org"
    message["To"] = event.data["email"]
    message["Subject"] = f"Welcome, {event.data['name']}"
    message["Message-ID"] = f"<{event.key}@example.org>"
    message.set_content("Thank you for joining.")
    with smtplib.SMTP("127.0.0.1", int(os.environ["QUICKSTART_SMTP_PORT"]), timeout=5) as server:
        server.send_message(message)
