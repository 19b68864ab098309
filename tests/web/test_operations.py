"""What operators ask and do: the answers, and what is said to a request that is not right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.web.fake import NOW, delivery

from eventflow.errors import StorageUnavailable
from eventflow.event import from_parts
from eventflow.storage.protocol import Actor, Filter

if TYPE_CHECKING:
    from tests.web.client import Client
    from tests.web.fake import FakeNode


class TestReading:
    async def test_stats(self, client: Client) -> None:
        answer = await client.get("/v1/stats")

        assert answer.status == 200
        assert answer.json()["topics"]["email"]["dead"] == 2
        assert answer.headers["cache-control"] == "no-store"

    async def test_head_is_get_without_its_body(self, client: Client) -> None:
        assert (await client.send("HEAD", "/v1/stats")).status == 200

    async def test_nodes(self, client: Client) -> None:
        assert (await client.get("/v1/nodes")).json() == {"nodes": [], "undone": ["recover"]}

    async def test_topics(self, client: Client) -> None:
        assert (await client.get("/v1/topics")).json() == {
            "topics": [{"name": "email", "paused": False}]
        }

    async def test_metrics(self, client: Client) -> None:
        answer = await client.get("/metrics")

        assert answer.body == b"# EOF\n"
        assert answer.headers["content-type"].startswith("application/openmetrics-text")

    async def test_an_event_by_ref_and_by_name(self, client: Client, node: FakeNode) -> None:
        node.keep(delivery(1))
        by_ref = await client.get("/v1/events/ref-1")
        by_name = await client.get("/v1/events?source=/shop&id=1")

        assert by_ref.json() == by_name.json()
        assert by_ref.json()["ref"] == "ref-1"

    @pytest.mark.parametrize(
        ("path", "name"),
        [("/v1/events/nope", "event nope"), ("/v1/events?source=/s&id=7", "event '7' of '/s'")],
    )
    async def test_an_event_nobody_knows(self, client: Client, path: str, name: str) -> None:
        answer = await client.get(path)

        assert answer.status == 404
        assert answer.json()["detail"] == (
            f"{name} was never accepted here, or delivered without trouble before "
            "2026-11-24T08:00:00.000000Z."
        )

    async def test_deliveries(self, client: Client, node: FakeNode) -> None:
        node.keep(delivery(1, due_at=NOW + 60, expiry_lifted=True))
        (shown,) = (await client.get("/v1/deliveries")).json()["deliveries"]

        assert shown == {
            "id": "ref-1.email",
            "ref": "ref-1",
            "topic": "email",
            "state": "dead",
            "reason": "attempts_exhausted",
            "since": "2026-11-24T08:00:00.000000Z",
            "accepted_at": "2026-11-24T08:00:00.000000Z",
            "due_at": "2026-11-24T08:01:00.000000Z",
            "expires_at": None,
            "attempts": 1,
            "rounds": 1,
            "overflows": 0,
            "crashes": 0,
            "replays": 0,
            "postponed": 0,
            "refusals": 0,
            "cause": "http 503",
            "error": "no answer <1>",
            "fingerprint": "f1",
            "size_bytes": 100,
            "event": {
                "specversion": "1.0",
                "id": "1",
                "source": "/shop",
                "type": "user.registered",
                "datacontenttype": "application/json",
                "tenant": "acme",
            },
        }

    async def test_a_time_that_no_calendar_has(self, client: Client, node: FakeNode) -> None:
        """Doors refuse it; a journal of before they did may hold it."""
        late = delivery(1)
        extensions = {"expirytime": "9999-12-31T23:59:59-14:00"}
        event = from_parts("1", "/s", "t", None, None, None, None, None, extensions)
        node.keep(type(late)(event, "ref-1", "email", NOW))

        (shown,) = (await client.get("/v1/deliveries")).json()["deliveries"]

        assert shown["expires_at"] is None

    async def test_pages(self, client: Client, node: FakeNode) -> None:
        node.keep(*[delivery(n) for n in range(3)])
        first = (await client.get("/v1/deliveries?limit=2")).json()
        second = (await client.get(f"/v1/deliveries?limit=2&cursor={first['cursor']}")).json()

        assert [one["ref"] for one in first["deliveries"]] == ["ref-0", "ref-1"]
        assert [one["ref"] for one in second["deliveries"]] == ["ref-2"]
        assert second["cursor"] is None

    async def test_filters(self, client: Client, node: FakeNode) -> None:
        node.keep(delivery(1), delivery(2, "db"))

        answer = await client.get("/v1/deliveries?state=dead&topic=db&q=")

        assert [one["id"] for one in answer.json()["deliveries"]] == ["ref-2.db"]

    async def test_groups(self, client: Client, node: FakeNode) -> None:
        node.keep(delivery(1))
        (group,) = (await client.get("/v1/groups?state=dead")).json()["groups"]

        assert (group["count"], group["first_at"]) == (1, "2026-11-24T08:00:00.000000Z")

    async def test_the_trail_keeps_the_text_that_was_hashed(self, client: Client) -> None:
        answer = await client.get("/v1/audit?event=ref-1")

        assert b'"row":{"format":1,  "ref":"ref-1"}' in answer.body
        assert answer.json()["rows"][0]["hash"] == "0102"

    async def test_the_ends_of_the_chains(self, client: Client) -> None:
        (head,) = (await client.get("/v1/audit/heads")).json()["heads"]
        held = await client.post("/v1/audit/verify", {"heads": [head]})

        assert held.json()["against"] == head

    async def test_an_end_that_is_none(self, client: Client) -> None:
        answer = await client.post("/v1/audit/verify", {"heads": ["x"]})

        assert answer.status == 400
        assert "expected <chain>:<seq>:<64 hex digits>, got 'x'" in answer.json()["detail"]

    @pytest.mark.parametrize(
        ("query", "refs"),
        [("", ["1", "2"]), ("?state=dead", ["1"]), ("?state=all&topic=db", ["2"])],
    )
    async def test_export(
        self, client: Client, node: FakeNode, query: str, refs: list[str]
    ) -> None:
        node.keep(delivery(1))
        node.keep(delivery(2, "db"), state="parked")
        answer = await client.get(f"/v1/export{query}")

        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.complete
        assert [line["id"] for line in answer.lines()] == refs
        assert all(line["data"] == 1 for line in answer.lines())

    async def test_export_that_fails_at_once_is_a_problem(
        self, client: Client, node: FakeNode
    ) -> None:
        node.fails = StorageUnavailable("no answer in 5 s")

        assert (await client.get("/v1/export")).status == 503

    async def test_export_of_a_state_there_is_none_of(self, client: Client) -> None:
        answer = await client.get("/v1/export?state=ded")

        assert (answer.status, answer.json()["detail"]) == (
            400,
            "state: expected one of queued, running, retrying, parked, dead, all.",
        )

    async def test_head_of_an_export_reads_nothing(self, client: Client, node: FakeNode) -> None:
        node.fails = StorageUnavailable("no answer in 5 s")

        assert (await client.send("HEAD", "/v1/export")).status == 200

    async def test_verify(self, client: Client) -> None:
        assert (await client.post("/v1/audit/verify")).json() == {
            "ok": False,
            "rows": 7,
            "faults": ["chain node-1, seq 3: changed"],
            "against": "itself",
        }

    @pytest.mark.parametrize(
        ("target", "detail"),
        [
            (
                "/v1/deliveries?tpoic=email",
                (
                    "there is no parameter 'tpoic'. Did you mean 'topic'? Expected one of state, "
                    "topic, reason, cause, fingerprint, type, q, cursor, limit."
                ),
            ),
            (
                "/v1/deliveries?topic=a&topic=b",
                "expected parameter 'topic' once, got it twice.",
            ),
            (
                "/v1/deliveries?state=lost",
                "state: expected one of retrying, parked, dead, got 'lost'.",
            ),
            ("/v1/groups?state=retrying", "state: expected one of parked, dead, got 'retrying'."),
            (
                "/v1/deliveries?limit=0",
                "limit: expected a whole number from 1 to 1000, got '0'.",
            ),
            (
                "/v1/deliveries?limit=1e3",
                "limit: expected a whole number from 1 to 1000, got '1e3'.",
            ),
            (
                f"/v1/deliveries?limit={'9' * 5_000}",
                f"limit: expected a whole number from 1 to 1000, got '{'9' * 80}'.",
            ),
            ("/v1/events?source=/s", "expected the parameters source and id, both."),
            ("/v1/audit", "expected the parameter event: the ref of an event."),
            ("/v1/stats?x=1", "there is no parameter 'x'. Expected one of none."),
            ("/v1/deliveries?q=%ff", "expected a query in UTF-8, got something else."),
        ],
    )
    async def test_a_query_that_is_not_right(
        self, client: Client, target: str, detail: str
    ) -> None:
        answer = await client.get(target)

        assert (answer.status, answer.json()["detail"]) == (400, detail)


class TestActing:
    async def test_pause_and_resume(self, client: Client, node: FakeNode) -> None:
        paused = await client.post("/v1/topics/email/pause", {"why": "provider is down"})
        assert (paused.json(), node.paused) == ({"topic": "email", "paused": True}, {"email": True})

        resumed = await client.post("/v1/topics/email/resume")
        assert (resumed.json()["paused"], node.paused) == (False, {"email": False})
        assert node.acts == [
            ("pause", "email", Actor("local", "provider is down")),
            ("resume", "email", Actor("local", "")),
        ]

    async def test_a_topic_there_is_none_of(self, client: Client) -> None:
        answer = await client.post("/v1/topics/emial/pause")

        assert answer.status == 404
        assert answer.json()["detail"] == "there is no topic 'emial'. Did you mean 'email'?"

    @pytest.mark.parametrize(("act", "result"), [("replay", "replayed"), ("discard", "discarded")])
    async def test_one(self, client: Client, node: FakeNode, act: str, result: str) -> None:
        node.keep(delivery(1))
        answer = await client.post(f"/v1/deliveries/ref-1.email/{act}", {"why": "fixed"})

        assert (answer.status, answer.json()) == (200, {"id": "ref-1.email", "result": result})
        assert node.acts == [(act, Filter(ids=("ref-1.email",)), Actor("local", "fixed"))]

    @pytest.mark.parametrize("act", ["replay", "discard"])
    @pytest.mark.parametrize(
        ("state", "status", "detail"),
        [
            (
                "retrying",
                409,
                "delivery r.email is retrying; expected parked or dead. Nothing was changed.",
            ),
            ("unknown", 404, "there is no delivery 'r.email'."),
            ("max_replays", 409, "delivery r.email has been replayed as often as it may be. "),
            ("already", 200, None),
        ],
    )
    async def test_one_that_is_elsewhere(
        self, client: Client, node: FakeNode, act: str, state: str, status: int, detail: str | None
    ) -> None:
        node.elsewhere["r.email"] = state
        answer = await client.post(f"/v1/deliveries/r.email/{act}")

        assert answer.status == status
        assert detail is None or answer.json()["detail"].startswith(detail)

    async def test_a_list(self, client: Client, node: FakeNode) -> None:
        node.keep(delivery(1))
        node.elsewhere["ref-2.email"] = "running"
        ids = ["ref-1.email", "ref-2.email", "ref-3.email"]
        answer = await client.post("/v1/deliveries/replay", {"ids": ids})

        assert answer.json() == {
            "matched": 3,
            "results": dict(zip(ids, ["replayed", "running", "unknown"], strict=True)),
            "counts": {"replayed": 1, "running": 1, "unknown": 1},
            "dry_run": False,
        }

    async def test_a_filter_tried_out_and_meant(self, client: Client, node: FakeNode) -> None:
        node.keep(delivery(1), delivery(2), delivery(3, "db"))
        command: dict[str, Any] = {"filter": {"state": "dead", "topic": "email"}}

        tried = (await client.post("/v1/deliveries/discard", {**command, "dry_run": True})).json()
        assert (tried["matched"], tried["dry_run"], node.acts) == (2, True, [])

        meant = (await client.post("/v1/deliveries/discard", {**command, "why": "test"})).json()
        assert (meant["counts"], meant["dry_run"]) == ({"discarded": 2}, False)
        assert node.acts == [
            ("discard", Filter(state="dead", topic="email"), Actor("local", "test"))
        ]

    @pytest.mark.parametrize(
        ("body", "detail"),
        [
            ({}, "expected either ids or filter. Nothing was changed."),
            ({"ids": ["a"], "filter": {"topic": "b"}}, "expected either ids or filter. "),
            ({"ids": []}, "ids: Expected `array` of length >= 1. Nothing was changed."),
            ({"ids": ["a"] * 1_001}, "ids: Expected `array` of length <= 1000. "),
            ({"filter": {}}, "filter: expected at least one member, got {}. "),
            ({"filter": {"topic": 5}}, "filter.topic: Expected `str | null`, got `int`. "),
            ({"filter": {"state": "retrying"}}, "filter.state: Invalid enum value 'retrying'. "),
            (
                {"ids": ["a"], "dryrun": True},
                "there is no member 'dryrun'. Did you mean 'dry_run'?",
            ),
            ([], "Expected `object`, got `array`. Nothing was changed."),
            (b"{", "expected a JSON object, got text that ends too soon. Nothing was changed."),
            (b'{"why": "\xff"}', "expected a JSON object, got text that is not UTF-8. "),
        ],
    )
    async def test_a_command_that_is_not_right(
        self, client: Client, node: FakeNode, body: Any, detail: str
    ) -> None:
        answer = await client.post("/v1/deliveries/discard", body)

        assert answer.status == 400
        assert answer.json()["detail"].startswith(detail)
        assert node.acts == []

    async def test_a_command_that_is_too_long(self, client: Client, node: FakeNode) -> None:
        answer = await client.post("/v1/deliveries/discard", b" " * (2**20 + 1))

        assert (answer.status, node.acts) == (413, [])

    async def test_storage_that_does_not_answer(self, client: Client, node: FakeNode) -> None:
        node.fails = StorageUnavailable("no answer in 5 s")
        answer = await client.post("/v1/deliveries/discard", {"ids": ["a"]})

        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["detail"] == (
            "secondary storage is unavailable: no answer in 5 s. Nothing was stored or changed. "
            "Try again in 5 s."
        )


class TestBackup:
    async def test_is_written_once(self, client: Client, node: FakeNode) -> None:
        first = await client.post("/v1/backup", {"name": "monday.db", "why": "before the move"})
        again = await client.post("/v1/backup", {"name": "monday.db"})

        assert first.json() == {"path": "backups/monday.db", "size_bytes": 4_096}
        assert node.acts == [("backup", "monday.db", Actor("local", "before the move"))]
        assert (again.status, again.json()["type"]) == (409, "urn:eventflow:problem:backup-refused")

    @pytest.mark.parametrize("name", ["../x.db", "/etc/x.db", ".hidden", "", "a/b", "x" * 101])
    async def test_stays_in_its_folder(self, client: Client, node: FakeNode, name: str) -> None:
        answer = await client.post("/v1/backup", {"name": name})

        assert (answer.status, node.acts) == (400, [])


class TestHealth:
    async def test_alive(self, client: Client, node: FakeNode) -> None:
        """Whatever is wrong inside: a restart would not mend it."""
        node.fails = RuntimeError("all is lost")

        assert (await client.get("/livez")).json() == {"alive": True}

    async def test_ready(self, client: Client) -> None:
        assert (await client.get("/readyz")).json() == {"ready": True}

    async def test_not_ready(self, client: Client, node: FakeNode) -> None:
        node.reasons = ["topic email: its loop stands still"]
        answer = await client.get("/readyz")

        assert answer.status == 503
        assert answer.json()["reasons"] == ["topic email: its loop stands still"]

    async def test_stopping(self, client: Client, node: FakeNode) -> None:
        node.stopping = True

        assert (await client.get("/readyz")).json()["reasons"] == ["the node is stopping"]

    async def test_why_not_is_not_for_everybody(self, client: Client, node: FakeNode) -> None:
        node.reasons = ["topic email: its loop stands still"]
        client.client = ("192.0.2.7", 50_000)
        answer = await client.get("/readyz")

        assert answer.status == 503
        assert b"email" not in answer.body


class TestPage:
    async def test_shows_the_ledger(self, client: Client) -> None:
        text = (await client.get("/")).body.decode()

        assert "<td>email</td><td>3</td><td>1</td>" in text
        assert "unaccounted 0" in text
        assert '<meta http-equiv="refresh" content="2">' in text

    async def test_says_who_is_paused(self, client: Client, node: FakeNode) -> None:
        node.paused["email"] = True

        assert "<td>email (paused)</td>" in (await client.get("/")).body.decode()

    async def test_shows_the_nodes_where_there_are_several(
        self, client: Client, node: FakeNode
    ) -> None:
        one = {"name": "n1", "state": "alive", "roles": ["accept", "<route>"]}
        node.members = [one]
        assert "n1" not in (await client.get("/")).body.decode()

        node.members = [one, {**one, "name": "n2", "state": "missing"}]
        text = (await client.get("/")).body.decode()
        assert "<td>n2</td><td>missing</td><td>accept, &lt;route&gt;</td>" in text
        assert "No living node does this: recover." in text

    async def test_nothing_in_it_runs_or_is_loaded(self, client: Client) -> None:
        """The policy forbids it, and names are text."""
        answer = await client.get("/")
        text = answer.body.decode()

        assert "&lt;x&gt;" in text
        assert "<x>" not in text
        assert not any(word in text for word in ("<script", "src=", "href=", "url(", "http:/"))
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
