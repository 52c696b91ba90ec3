"""`constraints.txt`: every file that is installed is one of those whose hashes stand there, and nothing is left out."""

import importlib.util
import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
TEXT = (ROOT / "constraints.txt").read_text()
PLACES: Final = [
    {"python_version": version, "python_full_version": f"{version}.9", "sys_platform": platform, "os_name": "posix"}
    | {"platform_system": system, "platform_machine": machine, "platform_python_implementation": "CPython"}
    for version in ("3.11", "3.12", "3.13", "3.14")
    for platform, system in (("linux", "Linux"), ("darwin", "Darwin"))
    for machine in ("x86_64", "aarch64", "arm64")
]
"""Where `make` works."""
WITHOUT_ADVISORIES: Final = {"starlette": "1.3.1", "h11": "0.16", "httptools": "0.6.4"}
"""For what reads requests: the first release without an advisory that was known in November 2026."""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pins", ROOT / "tools" / "pins.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pins = load()
GROUPS: Final[dict[str, list[str]]] = pins.groups(TEXT)


def named(*groups: str) -> dict[str, str]:
    """Return the version of each package that groups name."""
    found = [pins.PIN.match(pin) for group in groups for pin in GROUPS[group]]
    return {canonicalize_name(each[1]): each[2] for each in found}


def needed(requirements: Iterable[str]) -> set[str]:
    """Return all packages that these need, in any of `PLACES`, as far as they are installed here."""
    seen: set[tuple[str, frozenset[str]]] = set()
    pending = [Requirement(each) for each in requirements]
    while pending:
        each = pending.pop()
        name, extras = canonicalize_name(each.name), frozenset(each.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            needs = metadata.distribution(name).requires or []
        except metadata.PackageNotFoundError:
            continue
        for more in map(Requirement, needs):
            if more.marker is None or any(
                more.marker.evaluate({**place, "extra": extra}) for place in PLACES for extra in ("", *extras)
            ):
                pending.append(more)
    return {name for name, _ in seen}


def test_every_line_is_a_pin_with_the_hashes_of_its_files() -> None:
    assert list(GROUPS) == ["run", "dev", "build", "release", "mutate", "model", "postgres"]
    for pin in (pin for group in GROUPS.values() for pin in group):
        assert re.fullmatch(r"[\w.-]+==[\w.]+( \\\n    --hash=sha256:[0-9a-f]{64})+", pin), pin
    lines = [line for line in TEXT.splitlines() if line and not line.startswith(("#", "    --hash=sha256:"))]
    assert len(lines) == sum(map(len, GROUPS.values()))
    both = [pin for pin in GROUPS["build"] if any(pin in GROUPS[other] for other in ("run", "dev"))]
    assert all(named("run", "dev").get(name, version) == version for name, version in named("build").items())
    assert len(both) >= 1


def test_each_group_has_all_that_its_packages_need() -> None:
    """Else pip, once it checks hashes, would install nothing; and with more, it would install unrequested packages."""
    extras = PROJECT["project"]["optional-dependencies"]
    run = needed([*PROJECT["project"]["dependencies"], *extras["demo"], *extras["postgres"]])
    assert run == set(named("run"))
    assert needed(extras["dev"]) - run == set(named("dev"))
    assert needed(PROJECT["build-system"]["requires"]) <= set(named("build"))


def test_the_pins_match_the_projects_requirements() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    pinned = named("run", "dev")
    wanted = [*PROJECT["project"]["dependencies"], *extras["demo"], *extras["postgres"], *extras["dev"]]
    for each in map(Requirement, wanted):
        assert pinned[canonicalize_name(each.name)] in each.specifier, each


def test_the_build_backend_is_pinned() -> None:
    (backend,) = PROJECT["build-system"]["requires"]
    assert backend == f"hatchling=={named('build')['hatchling']}"


@pytest.mark.parametrize("name", WITHOUT_ADVISORIES)
def test_what_reads_requests_has_no_release_with_a_known_advisory(name: str) -> None:
    (required,) = (each for each in map(Requirement, PROJECT["project"]["dependencies"]) if each.name == name)
    floor = next(Version(each.version) for each in required.specifier if each.operator == ">=")
    assert floor >= Version(WITHOUT_ADVISORIES[name])


def test_all_that_installs_checks_hashes() -> None:
    for name in ("Dockerfile", "tools/venv.sh"):
        text = re.sub(r"^\s*#.*$", "", (ROOT / name).read_text(), flags=re.MULTILINE)
        installs = re.findall(r"(?:pip|\"\$\{pip\[@\]\}\") (?:install|wheel) [^\n]*", text)
        assert installs, name
        for each in installs:
            assert "--require-hashes" in each or "--no-deps" in each, each
            if "--require-hashes" not in each:
                assert "--no-build-isolation" in each or "--no-index" in each, each


def test_versions_are_printed_without_hashes_for_a_constraints_file() -> None:
    versions = pins.versions(GROUPS["run"])
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", each) for each in versions)
    assert f"starlette=={named('run')['starlette']}" in versions
