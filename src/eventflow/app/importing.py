"""From "module:name" to what it names, or to a sentence that says what is wrong with it."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import traceback
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from eventflow.errors import ConfigError, did_you_mean

_NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_RUNS: Final = (
    "flow.run() is called while module {name!r} is only imported for what it names. "
    "Put it under `if __name__ == '__main__':`"
)
_ENDED: Final = (
    "it ended the program while it was imported. Put what only a script does under\n"
    '    if __name__ == "__main__":'
)

_importing: ContextVar[str] = ContextVar("eventflow_importing", default="")


def refuse_while_importing() -> None:
    """Make sure that no node is run by a module that is only imported for what it names.

    Raises:
        ConfigError: one is.
    """
    if _importing.get():
        raise ConfigError([_RUNS.format(name=_importing.get())])


def imported(name: str, where: str) -> Any:
    """Return what "module:name" names; modules of the working directory are found too.

    Args:
        name: What is named.
        where: What names it, for messages.

    Raises:
        ConfigError: there is no such module or name, or importing it fails.
    """
    module_name, _, attribute = name.partition(":")
    if not (_NAME.fullmatch(module_name) and _NAME.fullmatch(attribute)):
        hint = _as_module(name)
        raise ConfigError(
            [f"{where}: expected MODULE:NAME such as shop.app:flow, got {name!r}.{hint}"]
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    imports = _importing.set(module_name)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        got = f"got {module_name!r}: {_why(error, module_name)}"
        raise ConfigError([f"{where}: expected a module to import, {got}"]) from error
    finally:
        _importing.reset(imports)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            hint = did_you_mean(part, dir(found))
            wanted = f"expected a name of module {module_name!r}"
            raise ConfigError([f"{where}: {wanted}, got {attribute!r}.{hint}"])
        found = getattr(found, part)
    return found


def _as_module(name: str) -> str:
    """Return a hint for who names a file."""
    path, _, attribute = name.partition(":")
    module = path.removeprefix("./").removesuffix(".py").replace("/", ".").replace("\\", ".")
    if module == path or not _NAME.fullmatch(module):
        return ""
    return f" Did you mean '{module}:{attribute or 'NAME'}'?"


def _why(error: BaseException, module_name: str) -> str:
    """Return why a module can't be imported, and where in it."""
    if isinstance(error, SystemExit):
        return _ENDED
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}{_at(error.filename, error.lineno)}"
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
        return f"{said}. Looked in {Path.cwd()}, then where Python does.{_near(error.name or '')}"
    places = [
        _at(frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen")
        and frame.filename not in {__file__, importlib.__file__}
    ]
    # The last one may be deep in a library: what is of this folder says where to look.
    ours = [place for place in places if not place.startswith(" (/")]
    return said + ([*places[-1:], *ours[-1:]] or [""])[-1]


def _at(file: str | None, line: int | None) -> str:
    if file is None:
        return ""
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f" ({shown}, line {line})"


def _near(missing: str) -> str:
    """Return a hint where a module beside the missing one has nearly its name."""
    package = missing.rpartition(".")[0]
    folders = getattr(sys.modules.get(package), "__path__", [str(Path.cwd())])
    names = [found.name for found in pkgutil.iter_modules(folders)]
    for folder in folders:  # those without an __init__.py
        names += {path.parent.name for path in Path(folder).glob("*/*.py")}
    return did_you_mean(missing, [f"{package}.{name}" if package else name for name in names])
