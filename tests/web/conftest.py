"""A door with a fake node behind it."""

from __future__ import annotations

import pytest
from tests.web.client import Client
from tests.web.fake import FakeNode

from eventflow.web.asgi import make_app


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def client(node: FakeNode) -> Client:
    return Client(make_app(node))
