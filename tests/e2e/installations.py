"""Where a node keeps its queues and storage: in a file, or on three servers and PostgreSQL."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests import postgres_server
from tests.cluster import servers as running_servers
from tests.cluster.network import network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    Installation = Callable[[Path], AbstractContextManager[str]]


@contextmanager
def one_file(folder: Path) -> Iterator[str]:
    """Yield the lines of a configuration on one machine."""
    yield f"""
[engine]
url = "sqlite:{folder}/e.db"
[storage]
url = "sqlite:{folder}/e.db"
"""


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Yield those of a cluster: three servers that sync always, and PostgreSQL."""
    with (
        network(("a", "b", "c"), cuts=False) as net,
        running_servers.running(net, folder) as servers,
        postgres_server.running() as postgres,
        postgres.database() as database,
    ):
        yield f"""
[engine]
url = "{servers.url}"
monitor = "{servers.monitor}"
replicas = 3
node = "n1"
[storage]
url = "{database.url}"
"""


EACH = (
    pytest.param(one_file, marks=pytest.mark.slow),
    pytest.param(cluster, marks=pytest.mark.prove),  # the same again, a minute longer
)


def proof_name(of: str, installation: Installation) -> str:
    """Return what the figures of a run are kept under."""
    return of if installation is one_file else f"{of}-on-a-cluster"
