"""Deliveries in every shape, and a shelf to put them on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw
import pytest

from eventflow.storage import schema
from eventflow.storage.shelf import Shelf
from eventflow.testing.storage_contract import a_kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.storage.protocol import Kept


@pytest.fixture(scope="session")
def make() -> Callable[..., Kept]:
    """A function `make(ref, **facts)`: a kept delivery, ordinary where nothing else is said."""
    return a_kept


@pytest.fixture
def connection() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    schema.create(connection)
    return connection


@pytest.fixture
def shelf(connection: apsw.Connection) -> Shelf:
    return Shelf(connection)
