"""The Python handler of the quickstart: what a user would write for mail."""

from __future__ import annotations

import os
import smtplib
from email.message import EmailMessage
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventflow import Event


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
