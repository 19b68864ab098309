"""What is installed is what was declared: every package named, every name at one version."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "eventflow"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = [
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
PINS = {canonicalize_name(r.name): r for r in map(Requirement, CONSTRAINTS)}

RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {
    extra: [Requirement(text) for text in texts]
    for extra, texts in PROJECT["optional-dependencies"].items()
}
DECLARED = [*RUNTIME, *(r for extra in EXTRAS.values() for r in extra)]


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(r.name) for r in requirements}


def closure(requirements: list[Requirement], *, everywhere: bool) -> set[str]:
    """Return what gets installed: here, or on any platform and Python that there is."""
    found: set[str] = set()
    open_ends = list(requirements)
    while open_ends:
        requirement = open_ends.pop()
        this = canonicalize_name(requirement.name)
        marker = requirement.marker
        if marker and not everywhere and not marker.evaluate():
            continue
        if this in found and not requirement.extras:
            continue
        found.add(this)
        try:
            open_ends += brought(this, requirement.extras)
        except metadata.PackageNotFoundError:
            assert everywhere, f"{this} is not installed"
    return found


def brought(this: str, extras: set[str]) -> list[Requirement]:
    """Return what a package needs, what it needs for these extras included."""
    needed = []
    for requirement in map(Requirement, metadata.requires(this) or ()):
        marker = requirement.marker
        if marker and "extra" in str(marker):
            if not any(marker.evaluate({"extra": extra}) for extra in extras):
                continue
            requirement.marker = None
        needed.append(requirement)
    return needed


def imported(path: Path) -> set[str]:
    """Return the top names of what a module imports from outside the package and Python."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    return {m.partition(".")[0] for m in modules} - sys.stdlib_module_names - {"eventflow"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_a_constraint_is_a_name_and_a_version_and_nothing_else() -> None:
    """No addresses, no hashes, no options: a package comes from whatever registry one has."""
    odd = [line for line in CONSTRAINTS if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]

    assert odd == []
    assert sorted(CONSTRAINTS, key=lambda line: line.partition("==")[0]) == CONSTRAINTS


def test_no_file_names_a_registry() -> None:
    """One list of pins; a lock file beside it would disagree, and most hold addresses."""
    locks = [p.name for p in ROOT.iterdir() if p.suffix == ".lock" or "requirements" in p.name]

    assert locks == []
    assert [str(r) for r in DECLARED if r.url] == []
    for file in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run"):
        assert not re.search(r"index-url|find-links|https?://", (ROOT / file).read_text()), file


def test_everything_declared_is_pinned_within_its_bounds() -> None:
    outside = [
        f"{r} is not met by {PINS.get(canonicalize_name(r.name), 'any constraint')}"
        for r in DECLARED
        if not (pin := PINS.get(canonicalize_name(r.name)))
        or not r.specifier.contains(str(pin.specifier).removeprefix("=="))
    ]

    assert outside == []


def test_the_pins_are_complete_and_none_is_left_over() -> None:
    """Down to what the dependencies need themselves."""
    assert closure(DECLARED, everywhere=False) - PINS.keys() == set()
    assert PINS.keys() - closure(DECLARED, everywhere=True) == set()


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    """Tests, an engine, some sinks and the quickstart have extras of their own."""
    owners = metadata.packages_distributions()
    beside = {
        "engine": names(EXTRAS["nats"]),
        "quickstart": names(EXTRAS["quickstart"]),
        "sinks": names(EXTRAS["postgres"]) | names(EXTRAS["smtp"]),
        "storage": names(EXTRAS["postgres"]),
        "testing": names(EXTRAS["dev"]),
    }
    used: set[str] = set()
    strays: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for module in imported(path):
            candidates = {canonicalize_name(owner) for owner in owners.get(module, [module])}
            used |= candidates
            if not candidates & (names(RUNTIME) | beside.get(room(path), set())):
                strays.add(f"{path.relative_to(ROOT)} imports {module}")

    assert strays == set()
    assert names(RUNTIME) - used == set()


def test_the_readme_is_the_package_description() -> None:
    """The build refuses a readme that is not there, so the key comes together with the file."""
    assert PROJECT.get("readme") == ("README.md" if (ROOT / "README.md").exists() else None)
