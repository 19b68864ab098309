"""The way in for senders that sign what they send: `POST /v1/webhooks/{name}`.

The signature is the authentication; no token is needed. First the signature is held against the
body as it came, then the body is looked at: a stranger hears nothing but 401.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventflow.cloudevents.payload import json_fault
from eventflow.errors import ConfigError, InvalidEvent, TooLarge, UnknownName
from eventflow.event import check, from_parts
from eventflow.policy.expression import ExpressionError, Names
from eventflow.policy.template import Template, compile_template
from eventflow.web.call import ClientGone, Json
from eventflow.web.events import Answer, Taken, check_sizes, encoded
from eventflow.web.problem import Problem, Refusal, problem_of, unavailable
from eventflow.web.signatures import keys_of, verify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.responses import Response

    from eventflow.config.webhook import WebhookSettings
    from eventflow.event import Event
    from eventflow.web.call import Call

JSON = "application/json"


class Webhook(msgspec.Struct, frozen=True):
    """A webhook, ready for use."""

    name: str
    scheme: str
    keys: tuple[bytes, ...]
    type: Template
    parks: bool


def compile_webhooks(settings: Sequence[WebhookSettings]) -> dict[str, Webhook]:
    """Return the webhooks by name: a value to be used as a whole, or replaced as a whole.

    Raises:
        ConfigError: a template or a secret can't be read; it says where, all of them at once.
    """
    found: dict[str, Webhook] = {}
    problems: list[str] = []
    for one in settings:
        where = f"[webhooks.{one.name}]"
        try:
            keys = keys_of(one.scheme, (secret.reveal() for secret in one.secret))
            type_ = compile_template(one.type)
        except ConfigError as error:
            problems += [f"{where} type: {problem}" for problem in error.problems]
        except ValueError:
            problems.append(f"{where} secret: expected whsec_ and base64, got something else")
        else:
            park = one.when_full == "park"
            found[one.name] = Webhook(one.name, one.scheme, keys, type_, park)
    if problems:
        raise ConfigError(problems)
    return found


async def post_webhook(call: Call) -> Response:
    """Accept what a webhook brings, and answer."""
    call.events = 1
    known = call.node.webhooks
    webhook = known.get(call.param("name"))
    if webhook is None:
        raise UnknownName("webhook", call.param("name")[:80], known)
    try:
        event = await _event(call, webhook)
        (receipt,) = await call.node.accept(
            [event], principal=f"webhook {webhook.name}", park=webhook.parks
        )
    except ClientGone:
        raise
    except Exception as error:
        call.node.webhook_called(webhook.name, problem_of(error).code)
        raise
    result = "duplicate" if receipt.duplicate else "parked" if receipt.parked else "accepted"
    call.node.webhook_called(webhook.name, result)
    taken = Taken(event.id, receipt.ref, receipt.duplicate)
    return Json(Answer(int(not receipt.duplicate), int(receipt.duplicate), [taken]), 202)


async def _event(call: Call, webhook: Webhook) -> Event:
    node = call.node
    if node.stopping:
        raise Refusal(unavailable("this node is stopping; another may not be.", "stopping"))
    headers: dict[str, str] = {}
    for name, value in call.scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    coding = headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise Refusal(encoded(coding.encode("latin-1")))
    limit = min(node.max_request_bytes, node.max_event_bytes)
    body = await call.body(
        limit,
        lambda size: TooLarge("body of the request, in bytes", size, limit, "[common] max_event"),
    )
    verify(webhook.scheme, webhook.keys, headers, body, node.now_s)
    kind = headers.get("content-type", JSON)
    if kind.partition(";")[0].strip().lower() != JSON:
        raise Refusal(_not_json(kind))
    fault = json_fault(body)
    if fault is not None:
        raise InvalidEvent([f"data: {fault}"])
    event = _made(webhook, headers, body)
    check_sizes([event], node.max_event_bytes, [0])
    return event


def _made(webhook: Webhook, headers: Mapping[str, str], body: bytes) -> Event:
    """Return the event of a request that is what it says."""
    source = f"/webhooks/{webhook.name}"
    draft = from_parts("-", source, "-", body)
    try:
        type_ = webhook.type.render(Names(draft, header=headers))
    except ExpressionError as error:
        raise InvalidEvent([f"type: {webhook.type.text!r} can't be computed: {error}"]) from error
    event = from_parts(_id(webhook.scheme, headers, body), source, type_, body)
    check(event)
    return event


def _id(scheme: str, headers: Mapping[str, str], body: bytes) -> str:
    """Return what the sender calls the event, the same whenever it is sent again."""
    if scheme == "stripe":
        try:
            return msgspec.json.decode(body, type=_Stripe).id
        except msgspec.ValidationError as error:
            raise InvalidEvent(["id: expected a text `id` in the body, got none"]) from error
    name = "x-github-delivery" if scheme == "github" else "webhook-id"
    id = headers.get(name)
    if not id:
        raise InvalidEvent([f"id: expected a header {name}, got none"])
    return id


class _Stripe(msgspec.Struct):
    """What is read of an event of Stripe."""

    id: str


def _not_json(kind: str) -> Problem:
    return Problem(
        status=415,
        code="unsupported-media-type",
        title="Not a kind of body that brings events",
        detail=(
            f"expected Content-Type {JSON}, got {kind[:80]!r}. Nothing was stored; set the "
            f"webhook's content type to {JSON} where it is sent."
        ),
        reason="invalid",
        headers={"accept": JSON},
    )
