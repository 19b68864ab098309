"""The JetStream engine keeps what it promises of storage with PostgreSQL beside it, too."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from tests.engine.test_jetstream import OnOneServer
from tests.postgres_server import Server, running

from eventflow.config.secret import Secret
from eventflow.errors import StorageUnavailable
from eventflow.storage.postgres import open_postgres
from eventflow.testing.engine_contract import DurableEngineContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventflow.storage.protocol import Keeper

pytestmark = pytest.mark.prove  # as the one without PostgreSQL: real time, narrow margins


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with running() as one:
        yield one


class TestWithPostgres(OnOneServer, DurableEngineContract):
    down: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _database(self, postgres: Server) -> Iterator[None]:
        with postgres.database() as database:
            self.database = database
            yield

    async def stored(self, node: str) -> Keeper:
        storage = await open_postgres(Secret(self.database.url), clock=self.clock, chain=node)
        for name in ("keep", "holds", "forget"):
            setattr(storage, name, self._refusing(getattr(storage, name)))
        return storage

    @classmethod
    def _refusing(cls, method: Any) -> Any:
        async def call(*args: Any, **more: Any) -> Any:
            if cls.down:
                raise StorageUnavailable("a test has switched it off")
            return await method(*args, **more)

        return call

    @contextmanager
    def storage_refuses(self) -> Iterator[None]:
        type(self).down = True
        try:
            yield
        finally:
            type(self).down = False
