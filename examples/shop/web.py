"""A web shop that publishes its orders to the worker.

EVENTFLOW_URL=http://127.0.0.1:8080 uvicorn web:app --port 8000
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from eventflow import AsyncClient, Event, InvalidEvent, NodeUnavailable, QueueFull


class State(TypedDict):
    """What requests find in `request.state`."""

    events: AsyncClient


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[State]:
    """Have one client as long as the application lives: it keeps its connections."""
    async with AsyncClient(wait_s=2) as events:  # nobody waits for a page much longer
        yield {"events": events}


async def place_order(request: Request) -> JSONResponse:
    """Take an order. Once this answers 202, the order survives a crash of anybody."""
    try:
        # Who sends an Idempotency-Key may send the same order again, and it is stored once.
        event = Event(
            type="order.placed",
            source="/shop",
            id=request.headers.get("idempotency-key"),
            data=json.loads(await request.body()),
        )
        receipt = await request.state.events.publish(event)
    except (ValueError, InvalidEvent) as error:
        return JSONResponse({"detail": str(error)}, 400)
    except (QueueFull, NodeUnavailable):
        again = {"retry-after": "5"}
        return JSONResponse({"detail": "please order again in a moment"}, 503, headers=again)
    return JSONResponse({"id": event.id, "known": receipt.duplicate}, 202)


app = Starlette(routes=[Route("/orders", place_order, methods=["POST"])], lifespan=lifespan)
