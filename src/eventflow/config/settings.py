"""Every setting but those of topics: a frozen value a table. `Settings` is all of them.

The annotation of a field says its unit and range, the assignment its default, the first
paragraph of its docstring what it is, the rest why default and range are as they are.
`load` checks them; a value made by hand is taken as it is.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeGuard

from eventflow.config import texts
from eventflow.config.kinds import Choice, Integer, Number, Odd
from eventflow.config.nats import NatsSettings, split_user
from eventflow.config.quantities import Duration, Size
from eventflow.config.schema import Derived, Follows, Many, Shape
from eventflow.config.secret import Secret
from eventflow.config.topic import MOST_DELIVERIES, TopicSettings
from eventflow.config.units import DAY_S
from eventflow.config.webhook import WebhookSettings
from eventflow.policy.nodes import ROLES

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
DEFAULT_URL = "sqlite:eventflow.db"
EVENT_BYTES = MIB
SERVERS_EVENT_BYTES = 896 * KIB
"""Of an event on NATS servers as they come: 128 KiB less than their `max_payload`."""
STORAGE_URL = "sqlite:eventflow-storage.db"
"""Of secondary storage beside NATS servers."""


_DEFAULT = Secret(DEFAULT_URL)


def _file(url: str) -> Path | None:
    scheme, _, path = url.partition(":")
    return Path(path) if scheme == "sqlite" else None


def on_servers(url: object) -> TypeGuard[str]:
    """Return whether an engine's URL names NATS servers."""
    return isinstance(url, str) and url.startswith(("nats:", "tls:"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """`[engine]`: what keeps the queues."""

    url: Annotated[str, texts.ENGINE_URL] = DEFAULT_URL
    """Where the queues are kept: a journal file, memory alone, or streams on NATS servers.

    A file in the working directory needs no other service. `memory:` forgets everything when
    the process ends. Several servers are separated by commas; with `tls://` nothing goes
    unencrypted. A user and password in it become those of `[engine.nats]`, and are not shown.
    """

    nats: NatsSettings = field(default_factory=NatsSettings)
    """User, keys and certificates for NATS servers.

    A server that others can reach should ask who comes, and show who it is.
    """

    monitor: Annotated[str, texts.MONITOR_URLS] = ""
    """Monitoring ports of the NATS servers: asked at start whether they sync before they answer.

    Empty asks nobody. Without `sync_interval: always` a power cut loses what servers had confirmed.
    """

    replicas: Annotated[int, Odd(1, 5, "servers")] = 1
    """How many NATS servers hold each stream.

    With 3 of them one may be lost, with 5 two. One server alone can't have more than 1.
    """

    node: Annotated[str, texts.NODE_NAME] = ""
    """This node's name among those on the same NATS servers, the same in its next life.

    Empty takes the name of the machine: a second node on it needs one of its own.
    """

    roles: Annotated[tuple[str, ...], Many(Choice(ROLES), least=1)] = ROLES
    """What this node does of the work, where several share the queues on NATS servers.

    One that leaves out `accept` refuses events, `route` moves none on from common, `deliver` runs
    no handler and no retry, `recover` brings nothing back from storage. All in one is the simplest
    fleet. What no living node does waits, and `GET /v1/nodes` names it.
    """

    durability: Literal["fsync", "os"] = "fsync"
    """What an accepted event survives: `fsync` a power cut, `os` only a crash of the process.

    Nothing accepted is lost, unless somebody chose speed over it.
    """

    memory_limit_bytes: Annotated[int, Size(MIB, 16 * TIB)] = 512 * MIB
    """Bodies of events held in memory, all queues together. Past it new events are refused.

    Half a gibibyte fits the smallest machines and holds half a million events of 1 KiB.
    """

    history_max: Annotated[int, Integer(0, MOST_DELIVERIES, "deliveries")] = 100_000
    """Delivered events that can still be shown.

    The last minutes of a busy node. 0 shows none.
    """

    backups: Annotated[Path, texts.FOLDER] = Path("backups")
    """The folder that backups asked for over HTTP are written to, from the working directory.

    Who may use the HTTP interface must not be able to write anywhere else. Another disk is better.
    """

    def __post_init__(self) -> None:
        """Take user and password out of the URL, so that whoever shows it can't show them."""
        if not self.on_servers:
            return
        url, users = split_user(self.url)
        if not users:
            return
        name, password = users[0]
        if password is None:
            nats = replace(self.nats, token=Secret(name))
        else:
            nats = replace(self.nats, user=name, password=Secret(password))
        object.__setattr__(self, "url", url)  # frozen from here on
        object.__setattr__(self, "nats", nats)

    @property
    def path(self) -> Path | None:
        """The journal's file; None: there is none, all is in memory or on servers."""
        return _file(self.url)

    @property
    def on_servers(self) -> bool:
        """Whether the queues are kept by NATS servers."""
        return on_servers(self.url)

    @property
    def encrypted(self) -> bool:
        """Whether nothing may go to NATS servers in the clear."""
        return self.url.startswith("tls:") or self.nats.wants_tls


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """`[storage]`: secondary storage, for what is parked and dead, and the audit trail."""

    url: Annotated[Secret, texts.STORAGE_URL, Follows("`[engine] url`")] = _DEFAULT
    """Where it is kept: in the same place as the queues; beside NATS servers in a file of its own,
    or in PostgreSQL (needs `eventflow[postgres]`).

    In one file a delivery moves from queue to storage in one transaction. Beside `nats://` it is
    "sqlite:eventflow-storage.db", for one node alone; several nodes share a database, of
    whose URL only host and name are ever shown.
    """

    max_size_bytes: Annotated[int, Size(MIB, 256 * TIB)] = 10 * GIB
    """Size of all that is parked, dead and audited, not of the journal.

    From 95 % on new events are refused, so that trouble can still be parked up to the whole.
    """

    @property
    def path(self) -> Path | None:
        """Its file; None: it is in memory, or in a database."""
        return _file(self.url.reveal())

    @property
    def shown(self) -> str:
        """Where it is, without user, password and parameters: for files and messages."""
        url = self.url.reveal()
        if not self.in_database:
            return url
        authority, _, path = url.removeprefix("postgresql://").partition("/")
        if "@" in path:  # whoever wrote it by hand: no telling what is a password
            return "postgresql://…"
        hosts = authority.rpartition("@")[2].partition("?")[0]
        return f"postgresql://{hosts}/{path.partition('?')[0]}"

    @property
    def in_database(self) -> bool:
        """Whether PostgreSQL keeps it."""
        return self.url.reveal().startswith("postgresql:")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """`[audit]`: the trail of trouble and of operators' acts."""

    key: Annotated[Secret, texts.TOKEN_SECRET] | None = None
    """What the chain of the trail is keyed with (HMAC-SHA-256), from the next row on.

    Left out: who may write the file can compute all hashes anew. Written as `${NAME}` the key
    stays out of the file; the same one is needed to verify.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """`tokens`: who may use the HTTP interface, and for what."""

    name: Annotated[str, texts.TOKEN_NAME]
    """Who it is: shown in the audit trail. Each name once.

    A person or program, not a role: the trail says who did it.
    """

    role: Literal["publish", "read", "operate", "admin"]
    """What it may do.

    There is no default for a right.
    """

    secret: Annotated[Secret, texts.TOKEN_SECRET]
    """What the client sends as `Authorization: Bearer …`. At least 16 characters are advised.

    Written as `${NAME}` it stays out of the file.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """`[server]`: the HTTP interface."""

    host: Annotated[str, texts.HOST] = "127.0.0.1"
    """The address it listens on. Any but a loopback address needs `tokens`.

    Nobody else reaches a node before its owner says so.
    """

    port: Annotated[int, Integer(0, 65_535)] = 8_080
    """The port it listens on; 0 takes a free one.

    A port that needs no privilege.
    """

    tokens: tuple[Token, ...] = ()
    """Who may use it. Without tokens everybody on this machine may do everything.

    None are needed to try it out on a loopback address.
    """

    max_request_bytes: Annotated[int, Size(KIB, GIB)] = 8 * MIB
    """Size of a request's body. At least `[common] max_event`, at most `[engine] memory_limit`.

    A thousand events of 8 KiB.
    """

    drain_s: Annotated[float, Duration(0.0, 3_600.0)] = 20.0
    """How long running handlers may take to finish when the node stops.

    Less than the 30 s that orchestrators wait before they kill. What has not finished then is
    released and runs again later.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSettings:
    """`weights`: how starts are shared among priorities that have something to start."""

    critical: Annotated[int, Integer(1, 10_000)] = 64
    """Share of critical.

    Four to one against the next: urgent work hardly notices the rest.
    """

    high: Annotated[int, Integer(1, 10_000)] = 16
    """Share of high.

    Four to one against normal.
    """

    normal: Annotated[int, Integer(1, 10_000)] = 4
    """Share of normal.

    Four to one against low.
    """

    low: Annotated[int, Integer(1, 10_000)] = 1
    """Share of low.

    Never 0: with the defaults it gets at least 1 start in 85.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings:
    """`[common]`: the queue that every event enters before it is routed."""

    capacity: Annotated[int, Integer(1, MOST_DELIVERIES, "events")] = 100_000
    """Events it holds; what is more is refused with 429.

    A burst of seconds; 100 MiB of events of 1 KiB. The last tenth is for critical and high.
    """

    dedup_window_s: Annotated[float, Duration(1.0, 7 * DAY_S)] = 600.0
    """How long the same (source, id) accepted again is a duplicate.

    Longer than a client repeats a request that was not answered.
    """

    dedup_max: Annotated[int, Integer(1, 50_000_000, "ids")] = 500_000
    """How many ids are remembered for that, at most; the oldest is forgotten first.

    At 800 events a second they last the whole of the default `dedup_window`.
    """

    max_event_bytes: Annotated[
        int, Size(KIB, 64 * MIB), Follows("the place of the queues: 1 MiB, on NATS servers 896 KiB")
    ] = EVENT_BYTES
    """Size of one event. At most `[server] max_request`.

    Events say what happened; large things are better linked to. What NATS servers take by
    themselves is 1 MiB, of which 128 KiB are for what goes with an event: for more, raise their
    `max_payload`.
    """

    unroutable: Literal["dead", "refuse"] = "dead"
    """What becomes of an event that no route takes: kept as dead, or refused with 422.

    A forgotten route loses nothing: routing can be repeated once it is there.
    """

    low_water: Annotated[float, Number(0.01, 1.0)] = 0.5
    """What was parked at the door comes back while common is filled less than this.

    Half leaves room for what is new. Never 0: nothing would come back.
    """

    weights: WeightsSettings = field(default_factory=WeightsSettings)
    """How starts are shared among priorities, in every queue.

    Each priority counts four times the next one.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """`[[routes]]`: which events go to which topics, beside the topics' own `match`."""

    match: Annotated[tuple[str, ...], Many(texts.EVENT_TYPES, least=1)]
    """Event types it is for; `*` within a dot-segment, `**` across.

    There is no default for what is meant; `"**"` is every event.
    """

    when: Annotated[str, texts.CEL] | None = None
    """A CEL expression over `event` that must be true as well. An error is no match.

    Left out: the type alone decides.
    """

    topics: Annotated[tuple[str, ...], Many(texts.TOPIC_NAME, least=1)]
    """Where they go: each topic gets a delivery of its own.

    There is no default for where events go.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaSettings:
    """`[schemas]`: what the data of an event must look like to be accepted."""

    type: Annotated[str, texts.EVENT_TYPE]
    """The event type.

    One type, not a pattern: a schema is about one kind of data.
    """

    path: Annotated[Path, texts.JSON_SCHEMA]
    """The JSON Schema file, from the working directory.

    Events of types without one are accepted as they are.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """`[log]`: what is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least urgent lines that are written.

    Each change of a node, but no line per event.
    """

    format: Literal["text", "json"] = "text"
    """`text` to be read by people, `json` by programs; a line an event either way.

    The first reader is the one who tries it out.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a node."""

    engine: EngineSettings = field(default_factory=EngineSettings)
    """What keeps the queues.

    One process with a file of its own, until more is needed.
    """

    storage: StorageSettings = field(default_factory=StorageSettings)
    """What keeps parked and dead deliveries and the audit trail.

    Nothing that failed is forgotten.
    """

    audit: AuditSettings = field(default_factory=AuditSettings)
    """The trail of trouble and of operators' acts.

    Chained by hashes; with a key of yours nobody else can make such a chain.
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    """The HTTP interface.

    Reached from this machine alone, until its owner says otherwise.
    """

    webhooks: Annotated[tuple[WebhookSettings, ...], Shape.NAMED] = ()
    """Doors for senders that sign what they send.

    None is open that nobody asked for.
    """

    common: CommonSettings = field(default_factory=CommonSettings)
    """The queue that every event enters before it is routed.

    Large enough for a burst, small enough to refuse in time.
    """

    topics: Annotated[tuple[TopicSettings, ...], Shape.NAMED] = ()
    """The destinations.

    There is no default for where events go.
    """

    routes: tuple[RouteSettings, ...] = ()
    """Which events go where, beside the topics' own `match`.

    Most topics need none.
    """

    schemas: Annotated[tuple[SchemaSettings, ...], Shape.PAIRS] = ()
    """Event types and the JSON Schema files that their data must fit to be accepted.

    Events of other types are accepted as they are.
    """

    log: LogSettings = field(default_factory=LogSettings)
    """What is written to standard error.

    To be read by a person.
    """

    warnings: Annotated[tuple[str, ...], Derived] = ()
    """What is allowed and probably not meant: a sentence each."""
