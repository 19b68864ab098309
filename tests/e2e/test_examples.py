"""Every example of every command's help is run as it stands, in a folder as its reader has it."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.e2e.shop import Shop
from tests.engine.jetstream_server import running
from tests.ports import free_port

from eventflow.cli.main import COMMANDS
from eventflow.cli.reference import help_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

_EXAMPLE = re.compile(r"^  (\S.*?)(?: {2,}.*)?$")
_DESCRIBED = re.compile(r" {4,}")
REF = "01930a52-7c1e-7d3b-9f00-1c2d3e4f5a6b"
"""The ref that the examples have."""


def examples(*command: str) -> list[str]:
    """Return the lines to type: without what is said of them, and without lines that go on."""
    block = help_of(*command).split("examples:\n")[1].split("\n\n")[0]
    lines = [line for line in block.splitlines() if not _DESCRIBED.match(line)]
    return [_EXAMPLE.fullmatch(line)[1] for line in lines]  # type: ignore[index]  # else it fails


ALL = [(command.name, line) for command in COMMANDS for line in examples(command.name)]
TOP = [("", line) for line in examples()]


@dataclass(frozen=True)
class Reader:
    """Somebody with a node that runs, the dead of two topics, a stopped one's file, and servers."""

    shop: Shop
    ref: str
    """Of an event that is dead in two topics."""
    servers: str
    """NATS servers."""

    def typed(self, line: str) -> str:
        """Return an example with what every reader puts in: refs, other nodes, a free port."""
        line = line.replace(REF, self.ref).replace("http://node-2:8080", self.shop.url)
        line = line.replace("nats://127.0.0.1:4222", self.servers)
        return line.replace("--port 9000", f"--port {free_port()}")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A folder as readers have it."""
    shop = Shop(tmp_path_factory.mktemp("shop"), free_port())
    for name in (".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"):
        (shop.folder / name).mkdir(parents=True)
    with gzip.open(shop.folder / "old.ndjson.gz", "wb") as packed:
        packed.write((shop.folder / "events.ndjson").read_bytes())
    with shop.serving(), running(tmp_path_factory.mktemp("nats")) as servers:
        shop.done("publish", "events.ndjson")
        shop.settled()
        shop.done("backup", "stopped.db")
        (shop.folder / "running.db").chmod(0o600)
        (shop.folder / "heads.txt").write_text(shop.done("audit", "--heads"))
        ref = shop.asked("show", "--source", "/shop", "--id", "4711")["ref"]
        yield Reader(shop, ref, servers.url)


@pytest.mark.parametrize("line", [line for _, line in ALL + TOP])
def test_an_example_does_what_it_says(line: str, reader: Reader) -> None:
    folder, line = reader.shop.folder, reader.typed(line)
    shutil.copy(folder / "backups" / "stopped.db", folder / "eventflow.db")
    if line.startswith("eventflow serve") and "--check-free" not in line:
        serves(reader.shop, line)
        return
    if "--check-free" in line:
        line = f"EVENTFLOW_SERVER__PORT={free_port()} {line}"
    if line.startswith("eventflow init"):
        line = f"rm -rf new && mkdir new && cd new && {line}"
    ended = reader.shop.shell(line)
    assert ended.returncode == 0, f"{line}\n{ended.stdout}\n{ended.stderr}"
    assert ended.stdout or ended.stderr or ">" in line, line


def serves(shop: Shop, line: str) -> None:
    """Start a node by an example, in a folder of its own; it has to answer, and to end with 0."""
    folder = shop.folder / "second"
    shutil.rmtree(folder, ignore_errors=True)
    port = free_port()
    second = Shop(folder, port)
    words = line.split()
    if "--port" in words:
        port = int(words[words.index("--port") + 1])
    environment = second.environment() | {"EVENTFLOW_SERVER__PORT": str(port)}
    node = subprocess.Popen(words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 30
        url = f"http://127.0.0.1:{port}"
        while second.run("stats", "--url", url).returncode != 0:
            assert node.poll() is None, node.stderr.read()  # type: ignore[union-attr]  # a pipe
            assert time.monotonic() < until, line
            time.sleep(0.1)
    finally:
        node.terminate()
        _, said = node.communicate(timeout=30)
    assert node.returncode == 0, said


def test_every_command_has_examples_of_its_own() -> None:
    for command in COMMANDS:
        lines = [line for name, line in ALL if name == command.name]
        assert lines, command.name
        assert all(f"eventflow {command.name}" in line for line in lines), lines


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_names_all(shell: str, reader: Reader) -> None:
    script = reader.shop.done("completion", shell)
    for command in COMMANDS:
        assert command.name in script
    assert "fingerprint" in script


@pytest.mark.parametrize(
    ("words", "completed"), [(["gro"], "groups"), (["replay", "--finger"], "--fingerprint")]
)
def test_bash_completes(words: list[str], completed: str, reader: Reader) -> None:
    (reader.shop.folder / "complete.sh").write_text(reader.shop.done("completion", "bash"))
    typed = f"COMP_WORDS=(eventflow {' '.join(words)}); COMP_CWORD={len(words)}"
    done = reader.shop.shell(f"source complete.sh; {typed}; _eventflow; echo ${{COMPREPLY[@]}}")
    assert done.stdout.strip() == completed, done.stderr
