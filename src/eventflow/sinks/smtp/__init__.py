"""The `smtp` sink: each event is a mail.

mail         from event and settings to the mail, the same one at every attempt
address      addresses, read strictly
body         its bodies: Jinja2
sandbox      what bounds them
connections  connections to the server, kept open between mails
sink         sends it, and says what the server's answer means
"""

from eventflow.sinks.smtp.sink import SmtpSink

__all__ = ["SmtpSink"]
