"""The settings of a webhook: a door for a sender that signs what it sends."""

from dataclasses import dataclass
from typing import Annotated, Literal

from eventflow.config import texts
from eventflow.config.schema import Follows, Many
from eventflow.config.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """`[webhooks.github]`: `POST /v1/webhooks/github` for a sender that signs what it sends."""

    name: Annotated[str, texts.WEBHOOK_NAME]
    """Its name, in the path and in the events' source `/webhooks/<name>`.

    A name is what its URL is known by.
    """

    scheme: Literal["github", "standard", "stripe"]
    """How requests are signed: by GitHub, as Standard Webhooks has it, or by Stripe.

    It decides which headers count, and what the event's id is.
    """

    secret: Annotated[tuple[Secret, ...], Many(texts.SHARED_SECRET, least=1)]
    """What requests are signed with; several while one replaces the other: each is enough.

    There is no default: the signature is all that keeps strangers out.
    """

    type: Annotated[str, texts.LINE_TEMPLATE, Follows("the webhook's `scheme`")] = (
        "{{ event.data.type }}"
    )
    """The type of the events, a template over `header` and `event.data`: for github
    `github.{{ header['x-github-event'] }}`, for standard `{{ event.data.type }}`, for stripe
    `stripe.{{ event.data.type }}`.

    What the sender itself calls its events.
    """

    when_full: Annotated[Literal["park", "refuse"], Follows("the webhook's `scheme`")] = "refuse"
    """What to do while the common queue is full: park the event in storage, or answer 429. For
    github `park`, for the others `refuse`.

    GitHub does not send again what was refused; the others do.
    """
