"""What README says, done as it says: the node of its first screen, in a folder of its own."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def curl() -> dict[str, Any]:
    """Return the event that README's curl line sends."""
    (text,) = re.findall(r"curl 'http[^']*/v1/events' (-H.*?)\n\n", README, re.DOTALL)
    words = shlex.split(text.replace("\\\n", " "))
    event: dict[str, Any] = json.loads(words[words.index("-d") + 1])
    assert words[words.index("-H") + 1] == "content-type: application/cloudevents+json"
    return event


async def story(folder: Path) -> str:
    code = blocks("python")[0]
    assert code.count("flow.run()") == 1
    (folder / "shop.py").write_text(code.replace("EventFlow()", "EventFlow(engine=ENGINE)"))
    script = "ENGINE = 'sqlite:eventflow.db'\n" + (folder / "shop.py").read_text()
    # Any free port instead of 8080, which may be taken on the machine that tests.
    script = script.replace("flow.run()", "flow.override({'server': {'port': 0}}); flow.run()")
    (folder / "shop.py").write_text(script)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "shop.py", cwd=folder, stdout=-1, stderr=-1, env={"PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    assert process.stderr is not None
    started = (await process.stderr.readline()).decode()
    (url,) = re.findall(r"address=(\S+)", started)
    headers = {"content-type": "application/cloudevents+json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/events", json=curl(), headers=headers) as answer,
    ):
        assert answer.status == 202
    said = (await process.stdout.readline()).decode()
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    return said


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_the_node_of_the_first_screen(tmp_path: Path) -> None:
    assert asyncio.run(story(tmp_path)).strip() == "welcome, Ada"
