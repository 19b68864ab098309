"""Failpoints at every step between accept and settle: before and after each function's work.

A failpoint is named like the code: "before eventflow.flow.settler:Settler.run". They are put in
from outside, so the code under test is what users run, and a new function has its failpoints at
once.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODULES = (
    "eventflow.flow.ingress",
    "eventflow.flow.router",
    "eventflow.flow.worker",
    "eventflow.flow.slots",
    "eventflow.flow.settler",
    "eventflow.flow.retry_lane",
    "eventflow.flow.recovery",
    "eventflow.flow.ledger",
    "eventflow.engine.embedded.engine",
    "eventflow.engine.embedded.committer",
    "eventflow.engine.embedded.settlement",
    "eventflow.engine.embedded.placement",
    "eventflow.engine.embedded.journal",
    "eventflow.engine.embedded.riders",
    "eventflow.engine.embedded.cleaning",
    "eventflow.engine.embedded.storage",
    "eventflow.engine.embedded.writer",
    "eventflow.storage.shelf",
    "eventflow.storage.audit",
)


class Failpoints:
    """Counts what is passed, and kills this process where it is told to.

    Args:
        where: "before" or "after", a space, module, colon, name. None: nowhere.
        nth: At which passing, counted from 1.
    """

    def __init__(self, where: str | None = None, nth: int = 1) -> None:
        self._where = where
        self._nth = nth
        self.passed: Counter[str] = Counter()

    def reach(self, name: str) -> None:
        """Pass a failpoint, or die at it."""
        self.passed[name] += 1
        if name == self._where and self.passed[name] == self._nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Put a failpoint before and after each function of `MODULES`."""
        for module_name in MODULES:
            module = importlib.import_module(module_name)
            for owner, name, function in _functions(module):
                label = f"{module_name}:{function.__qualname__}"
                setattr(owner, name, self._around(function, label))

    def _around(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        before, after = f"before {label}", f"after {label}"

        @functools.wraps(function)
        async def slow(*args: Any, **more: Any) -> Any:
            self.reach(before)
            answer = await function(*args, **more)
            self.reach(after)
            return answer

        @functools.wraps(function)
        def quick(*args: Any, **more: Any) -> Any:
            self.reach(before)
            answer = function(*args, **more)
            self.reach(after)
            return answer

        return slow if inspect.iscoroutinefunction(function) else quick


def _functions(module: Any) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    owners = [module] + [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and each.__module__ == module.__name__
    ]
    for owner in owners:
        for name, found in list(vars(owner).items()):
            ours = inspect.isfunction(found) and found.__module__ == module.__name__
            if ours and not name.startswith("__") and not inspect.isasyncgenfunction(found):
                yield owner, name, found
