"""The settings of the `http` sink."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from eventflow.config import texts
from eventflow.config.quantities import Duration
from eventflow.config.schema import Follows, Many, Shape
from eventflow.config.secret import Secret
from eventflow.config.units import DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A header of the requests of an `http` sink."""

    name: Annotated[str, texts.HEADER_NAME]
    """Its name.

    Those that say what the body is are the sink's own.
    """

    value: Annotated[Secret, texts.HEADER_VALUE]
    """Its value.

    It may be a password: it is never shown.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSinkSettings:
    """`sink = { type = "http", … }`: each event is an HTTP request."""

    type: Literal["http"]
    """Which sink.

    It decides what else may be said here.
    """

    url: Annotated[str, texts.HTTP_URL] = field(repr=False)
    """Where the requests go. The path may hold `{{ }}`.

    There is no default for where events are sent. Hidden when printed, for many services put
    a password into the path.
    """

    method: Literal["POST", "PUT", "PATCH"] = "POST"
    """The method of the requests.

    What webhooks expect. Those without a body can carry no event.
    """

    headers: Annotated[tuple[Header, ...], Shape.PAIRS] = ()
    """Further headers, such as `{ authorization = "Bearer ${API_TOKEN}" }`.

    None are needed by CloudEvents itself.
    """

    timeout_s: Annotated[float, Duration(0.001, DAY_S), Follows("the topic's `timeout`")] = 10.0
    """How long a request may take, from looking up the host to the end of the answer.

    More than the topic's `timeout` has no effect: that one ends the attempt.
    """

    secret: Annotated[tuple[Secret, ...], Many(texts.WEBHOOK_SECRET)] = ()
    """What requests are signed with, as Standard Webhooks has it; two while one replaces the other.

    Left out: no signature. With one the receiver knows who sent the body, and when. The headers are
    not signed: where the attributes count as well, take `format = "structured"`.
    """

    format: Literal["cloudevents", "structured", "data"] = "cloudevents"
    """What is sent: a CloudEvent in binary mode (attributes in `ce-*` headers), in structured mode
    (all in one JSON document), or its data alone.

    Binary mode serves most: a target that knows no CloudEvents ignores the headers.
    """

    allow_private: bool = False
    """Whether a host name may lead to an address that is not public. An address that stands in the
    URL itself is taken as it is.

    Where a name leads is for others to say, and may change. Say true for targets of your own.
    """
