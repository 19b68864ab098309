"""One shell, in an empty folder, that follows a how-to page."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

from tests.e2e.page import DEFAULT_PORT, Commands, File, Said, Step, fits, moved, ports, steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BLOCK_S: Final = 60.0
EVENTUALLY_S: Final = 30.0
READY_S: Final = 30.0
END_S: Final = 25.0
"""How long a process in the background has to end after SIGTERM."""
_BACKGROUND = re.compile(r"^([^#\n]*[^&\s])\s*&[ \t]*(?:#.*)?$", re.MULTILINE)
_INSTALL = re.compile(r"^(?:python -m )?pip install .*$", re.MULTILINE)


class Failed(AssertionError):
    """A page that does not do what it says."""


@dataclass
class Terminal:
    """A shell that stays the same from block to block.

    Args:
        folder: Where it begins: empty.
        scratch: For what the reader does not see.
        port: Where a node listens that is told nothing.
    """

    folder: Path
    scratch: Path
    port: int
    name: str = "page"
    _shell: asyncio.subprocess.Process = field(init=False)
    _blocks: int = 0

    async def __aenter__(self) -> Self:
        self._node.touch()
        self._shell = await asyncio.create_subprocess_exec(
            "bash",
            "--norc",
            "--noprofile",
            cwd=self.folder,
            env=self._environment(),
            stdin=-1,
            stdout=-1,
            start_new_session=True,
        )
        await self._tell(
            f'exec 2>>{self.scratch}/shell.err; trap \'echo "$?: $BASH_COMMAND" >> '
            f"{self.scratch}/failed' ERR; set -E"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            left = await self._end()
        finally:
            if self._shell.returncode is None:
                self._shell.kill()
                await self._shell.wait()
        if left:
            raise Failed(f"{self.name}: did not end within {END_S:g} s of SIGTERM: {left}")

    @property
    def _node(self) -> Path:
        return self.scratch / "background.out"

    def _environment(self) -> dict[str, str]:
        venv = Path(sys.executable).parent
        return {
            "PATH": f"{venv}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.scratch),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            # What a page leaves out: where a node listens, and where to find it.
            "EVENTFLOW_SERVER__PORT": str(self.port),
            "EVENTFLOW_URL": f"http://127.0.0.1:{self.port}",
        }

    async def follow(self, step: Step) -> None:
        """Do what a step of the page says.

        Raises:
            Failed: it went otherwise.
        """
        match step:
            case File():
                path = self.folder / step.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.text)
            case Commands():
                await self._run(step)
            case Said():
                await self._said(step)

    async def _run(self, step: Commands) -> None:
        until = asyncio.get_running_loop().time() + (EVENTUALLY_S if step.eventually else 0.0)
        while True:
            printed, wrong = await self._once(step)
            if not wrong and (step.prints is None or fits(step.prints, printed)):
                break
            if asyncio.get_running_loop().time() >= until:
                expected = "" if step.prints is None else f"\n--- expected\n{step.prints}"
                self._fail(step, f"{wrong or 'it printed something else'}{expected}", printed)
            await asyncio.sleep(0.2)
        if step.ready is not None:
            await self._ready(step, step.ready)

    async def _once(self, step: Commands) -> tuple[str, str]:
        """Run the commands; return what they print, and what is wrong with how they ended."""
        self._blocks += 1
        script, out = (self.scratch / f"{self._blocks}.{kind}" for kind in ("sh", "out"))
        failed = self.scratch / "failed"
        failed.unlink(missing_ok=True)
        script.write_text(self._script(step.text))
        line = f"source {script} </dev/null >{out} 2>&1; echo $?"
        try:
            answer = await asyncio.wait_for(self._tell(line, answers=True), BLOCK_S)
        except TimeoutError:
            self._fail(step, f"it was not done after {BLOCK_S:g} s", out.read_text())
        printed = out.read_text()
        if not answer:
            self._fail(step, "it ended the shell", printed)
        status = int(answer)
        complaints = failed.read_text().splitlines() if failed.exists() else []
        if step.status:
            complaints = [] if status == step.status else [f"exit status {status}"]
        return printed, "; ".join(complaints)

    def _script(self, text: str) -> str:
        joined = _INSTALL.sub(":", text.replace("\\\n", " "))
        # Before the command, so that a redirection of its own wins.
        return _BACKGROUND.sub(
            lambda match: f">>{self._node} 2>&1 {match[1].strip()} & echo $! >>{self.scratch}/pids",
            joined,
        )

    async def _said(self, step: Said) -> None:
        """Wait until the background has printed these lines, in this order."""
        expected = f"…\n{step.text.strip()}\n…"
        until = asyncio.get_running_loop().time() + EVENTUALLY_S
        while not fits(expected, self._node.read_text()):
            if asyncio.get_running_loop().time() >= until:
                self._fail(step, f"not printed in the background:\n{step.text}", "")
            await asyncio.sleep(0.1)

    async def _ready(self, step: Commands, port: int) -> None:
        until = asyncio.get_running_loop().time() + READY_S
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if asyncio.get_running_loop().time() >= until:
                    self._fail(step, f"nobody listens on port {port}", "")
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    def _fail(self, step: Step, why: str, printed: str) -> NoReturn:
        background = self._node.read_text()[-4000:]
        raise Failed(
            f"{self.name}:{step.line}: {why}\n--- printed\n{printed}\n"
            f"--- in the background\n{background}"
        )

    async def _tell(self, line: str, *, answers: bool = False) -> str:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(line.encode() + b"\n")
        await self._shell.stdin.drain()
        return (await self._shell.stdout.readline()).decode() if answers else ""

    async def _end(self) -> list[int]:
        """End what runs in the background; return what had to be killed."""
        listed = self.scratch / "pids"
        pids = [int(pid) for pid in listed.read_text().split()] if listed.exists() else []
        for pid in filter(self._is_mine, pids):
            os.kill(pid, signal.SIGTERM)
        until = asyncio.get_running_loop().time() + END_S
        while left := [pid for pid in pids if self._is_mine(pid)]:
            if asyncio.get_running_loop().time() >= until:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return left
            await asyncio.sleep(0.05)
        return []

    def _is_mine(self, pid: int) -> bool:
        """Whether a process of this shell lives: its number may be another's by now."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        state, parent = stat.rpartition(")")[2].split()[:2]
        return state != "Z" and int(parent) == self._shell.pid


async def follow(
    path: Path, folder: Path, scratch: Path, there: Mapping[int, int] | None = None
) -> None:
    """Follow a page from its first block to its last.

    Args:
        path: The page.
        folder: Where it begins: empty.
        scratch: For what the reader does not see.
        there: Where servers are that the page takes for given, by the port it names.

    Raises:
        Failed: it does not do what it says.
        NotAPage: it can't be followed.
    """
    todo = steps(path)
    free = dict(zip(sorted(ports(path)), _free(len(ports(path))), strict=True)) | dict(there or {})
    async with Terminal(folder, scratch, free[DEFAULT_PORT], path.name) as terminal:
        for step in todo:
            await terminal.follow(moved(step, free))


def _free(count: int) -> Sequence[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
