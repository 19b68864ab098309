"""`python -m eventflow.quickstart`: see it at work, in a minute, with nothing but Python."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import socket
import sys
import tempfile
import uuid
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from eventflow.app.eventflow import EventFlow, Surroundings
from eventflow.app.serving import serve
from eventflow.config import load
from eventflow.quickstart import cluster, report
from eventflow.quickstart.destinations import Endpoint, MailServer, rows_of
from eventflow.quickstart.processes import lasting_port
from eventflow.quickstart.samples import sample_events
from eventflow.telemetry.logging import configure

CONFIG = Path(__file__).with_name("quickstart.toml")
PORT = 8080
WITHIN_S = 120.0
"""The sample events are at their ends long before."""


def main() -> int:
    """Run the quickstart; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="eventflow.quickstart", description="A node with sample events, to see it at work."
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="end when every sample event is accounted for, instead of serving until Ctrl-C",
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help="default: %(default)s, or a free one"
    )
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="three nodes on three NATS servers and PostgreSQL; a node and a server are killed",
    )
    parser.add_argument("--seed", type=int, default=7, help="of the faults (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eventflow-quickstart-") as folder:
        return asyncio.run(_quickstart(Path(folder), options))


async def _quickstart(folder: Path, options: argparse.Namespace) -> int:
    # As Ctrl-C does, SIGTERM ends what was started, servers and nodes too. A node that serves until
    # it is told has its own way of both.
    main_task = asyncio.current_task()
    assert main_task is not None  # noqa: S101  # a coroutine runs in a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main_task.cancel)
    secret = "whsec_" + b64encode(secrets.token_bytes(24)).decode()
    async with Endpoint(options.seed, secret).serving() as endpoint, MailServer().serving() as mail:
        # The configuration names them as ${...}.
        os.environ |= {
            "QUICKSTART_DIR": str(folder),
            "QUICKSTART_API": endpoint.url,
            "QUICKSTART_SECRET": secret,
            "QUICKSTART_DB": str(folder / "shop.db"),
            "QUICKSTART_SMTP_PORT": str(mail.port),
        }
        port = options.port if _is_free(options.port) else 0
        if options.cluster:
            return await cluster.show(
                port or lasting_port(), folder, endpoint, mail, once=options.once
            )
        settings = load(CONFIG, environ=os.environ, overrides={"server": {"port": port}})
        configure(settings.log.format, level=settings.log.level)
        flow = EventFlow(settings, surroundings=Surroundings(environ=os.environ))
        stop, opened = asyncio.Event(), asyncio.get_running_loop().create_future()
        node = asyncio.create_task(
            serve(flow, started=opened.set_result, stop=stop, signals=not options.once)
        )
        await asyncio.wait([node, opened], return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            return await node
        try:
            status = await _show(opened.result(), endpoint, mail, stop, once=options.once)
        finally:
            stop.set()
            failed = await node
    return status or failed


async def _show(
    url: str, endpoint: Endpoint, mail: MailServer, stop: asyncio.Event, *, once: bool
) -> int:
    async with aiohttp.ClientSession(base_url=url) as session:
        events = sample_events(uuid.uuid4().hex[:8])
        print(f"A node is running at {url}. Sending {len(events)} sample events to its door:\n")
        print(f"    curl {url}/v1/stats        # what you see below, any time\n", flush=True)
        await _send(session, events)
        stats = await _until_still(session, stop)
        found = (await _get(session, "/v1/deliveries?state=dead"))["deliveries"]
        print(report.ledger(stats))
        print(f"\nDead, with the reason (kept until replayed or discarded):\n{report.dead(found)}")
        print(
            f"\nThe endpoint took {len(endpoint.accepted)} events, the database holds "
            f"{rows_of(Path(os.environ['QUICKSTART_DB']))} rows, the mail server took "
            f"{len(mail.taken)} mails."
        )
        still = report.waiting(stats)
        unaccounted = stats["unaccounted"]
        print(f"\naccepted {stats['accepted']}")
        print(f"unaccounted {unaccounted}", flush=True)
        if still:
            print(f"{still} deliveries are still on their way.", file=sys.stderr)
        if not once and not stop.is_set():
            print(f"\nServing at {url} until Ctrl-C. Send an event of your own:\n\n{_curl(url)}\n")
            sys.stdout.flush()
            await stop.wait()
    return 1 if (still and once) or unaccounted or stats["accepted"] != len(events) else 0


async def _send(session: aiohttp.ClientSession, events: list[dict[str, Any]]) -> None:
    headers = {"content-type": "application/cloudevents-batch+json"}
    async with session.post("/v1/events", json=events, headers=headers) as answer:
        body = await answer.json(content_type=None)
        if answer.status != 202:
            raise SystemExit(f"the door answered {answer.status}: {body}")


async def _until_still(session: aiohttp.ClientSession, stop: asyncio.Event) -> dict[str, Any]:
    """Wait until every delivery is at its end; return the ledger."""
    stats: dict[str, Any] = {}
    for _ in range(int(WITHIN_S / 0.2)):
        stats = await _get(session, "/v1/stats")
        if not report.waiting(stats) or stop.is_set():
            break
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await stop.wait()
    return stats


async def _get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as answer:
        answer.raise_for_status()
        return await answer.json(content_type=None)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _curl(url: str) -> str:
    return (
        f"    curl {url}/v1/events -H 'content-type: application/cloudevents+json' -d '\n"
        '      {"specversion": "1.0", "id": "1", "source": "/me", "type": "user.registered",\n'
        '       "data": {"name": "Ada", "email": "ada@example.org"}}\''
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
