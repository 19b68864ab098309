"""Lets all programs of the bench take turns, and prints one table; `--json FILE` keeps it all.

`--peers` adds (g): other queues, which are installed for it, in a folder of their own.
`cluster` is by itself: three NATS servers, beside a floor of theirs.

In turns, because a machine's speed drifts: what is compared was measured in the same minutes. Each
figure is the median of its runs, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.contestants import BY_DEFAULT, CONTESTANTS, EMPTY, SYNCED
from bench.peers import redis
from bench.peers.installing import Missing, installed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.contestants import Contestant


ONCE = ("retries", "memory")
"""What takes long and varies little is measured fewer times."""
FEW = 3
AT_MOST_S = 600.0
"""For one run of one program."""


def measure(one: Contestant) -> dict[str, float]:
    """Run a program once, in a process of its own."""
    command = [sys.executable, "-m", f"bench.{one.arguments[0]}", *one.arguments[1:]]
    done = subprocess.run(  # noqa: S603  # ours
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=AT_MOST_S
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def asked(letters: Iterable[str]) -> list[Contestant]:
    """Return the contestants of these letters, each after its floor, which has to be known."""
    found = [one for letter in letters for one in CONTESTANTS[letter]]
    return sorted(found, key=lambda one: bool(one.floor) + 2 * one.name.startswith(("(f)", "(g)")))


def in_turns(contestants: list[Contestant], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Let each run once a round."""
    runs: dict[str, list[dict[str, float]]] = {one.name: [] for one in contestants}
    for number in range(rounds):
        for one in contestants:
            if one.arguments[0] in ONCE and number >= min(FEW, rounds):
                continue
            sys.stderr.write(f"\r{number + 1}/{rounds} {one.name:60}")
            runs[one.name].append(measure(one))
    sys.stderr.write("\r" + " " * 72 + "\r")
    return runs


def table(contestants: list[Contestant], runs: dict[str, list[dict[str, float]]]) -> str:
    """Return medians with spreads, and ratios to floors."""
    medians: dict[tuple[str, str], float] = {}
    first = {one.name: one.figures[0] for one in contestants}
    lines = [f"{'':52}{'median':>12}  {'least … greatest':>24}  of floor"]
    for one in contestants:
        for figure in one.figures:
            values = [run[figure] for run in runs[one.name]]
            median = medians[one.name, figure] = statistics.median(values)
            beside = medians.get((one.floor, figure))
            if beside is None and one.floor in first:
                beside = medians[one.floor, first[one.floor]]
            ratio = f"{median / beside:8.2f}" if beside else ""
            spread = f"{_short(min(values))} … {_short(max(values))}"
            name = f"{one.name} [{figure}]"
            lines.append(f"{name:52}{_short(median):>12}  {spread:>24}  {ratio}")
    return "\n".join(lines)


def beaten(runs: dict[str, list[dict[str, float]]]) -> str:
    """Return how many times as fast as the fastest peer with fsync (b) was in the same run."""
    ours = statistics.median(run["per_s"] for run in runs[EMPTY])
    peer, alone = (
        statistics.median(run[figure] for run in runs[SYNCED])
        for figure in ("per_s", "drained_per_s")
    )
    return (
        f"(b) is {ours / peer:.1f} times BullMQ with fsync from publish to handled, and "
        f"{ours / alone:.1f} times what its workers alone handle of what was published before."
    )


def can_be_measured() -> bool:
    """Return whether there are peers and their server; say what is missing."""
    missing = None
    if redis.program() is None:
        missing = "there is no redis-server. Install Debian's package redis-server"
    else:
        try:
            installed()
        except Missing as error:
            missing = str(error)
    if missing is not None:
        sys.stderr.write(f"(g) is left out: {missing}\n")
    return missing is None


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("letters", nargs="*", help="a to g, or cluster; default a to f")
    parser.add_argument("--peers", action="store_true", help="g too")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to keep all figures")
    given = parser.parse_args()
    letters = given.letters or list(BY_DEFAULT)
    if given.peers and "g" not in letters:
        letters.append("g")
    if "g" in letters and not can_be_measured():
        letters.remove("g")
    contestants = asked(letters)
    began = time.time()
    runs = in_turns(contestants, given.rounds)
    sys.stdout.write(table(contestants, runs) + "\n")
    if EMPTY in runs and SYNCED in runs:
        sys.stdout.write(beaten(runs) + "\n")
    if given.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "began": began}
        given.json.write_text(json.dumps({"machine": machine, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
