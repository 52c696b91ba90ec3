"""Clients that nobody here wrote, of other languages or too large for our environment: where they are installed.

Each set of them has its exact versions in a file of its own (`tests/clients`), and is installed once for that, into a
folder of `.venv`. A machine without npm skips what needs it, and says so; CI fails.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

CLIENTS: Final = Path(__file__).parent / "clients"
CACHE: Final = Path(__file__).parents[1] / ".venv" / "clients"
INSTALL_S: Final = 300
_LISTS: Final = ("package.json", "package-lock.json", ".npmrc")


def npm_clients(name: str = "npm", *, install_s: float = INSTALL_S) -> tuple[str, Path]:
    """Install the packages of a folder of `tests/clients`; return what runs its scripts, and where those are."""
    sources = CLIENTS / name
    place = npm_packages(sources, name, install_s=install_s)
    for script in sources.iterdir():
        if script.name in _LISTS:
            continue
        copied = place / f"{script.name}.{os.getpid()}"
        shutil.copy(script, copied)
        copied.rename(place / script.name)
    return "node", place


def npm_packages(sources: Path, name: str, *, install_s: float = INSTALL_S) -> Path:
    """Install what the `package-lock.json` of a folder names, of its workspaces too; return where it is."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        _missing("npm is not on this machine (apt install nodejs npm)")
    place = _place(name, sources / "package-lock.json")
    if not (place / "node_modules").exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=place.parent) as made:  # (several processes may do so at once)
            for each in (*(sources / each for each in _LISTS), *sources.glob("*/package.json")):
                copied = Path(made) / each.relative_to(sources)
                copied.parent.mkdir(exist_ok=True)
                shutil.copy(each, copied)
            _install("npm", "ci", "--no-progress", folder=Path(made), install_s=install_s)
            with suppress(OSError):
                Path(made).rename(place)
            Path(made).mkdir(exist_ok=True)
    return place


def python_client(name: str, *, complete: bool = False, install_s: float = INSTALL_S) -> tuple[str, Path]:
    """Install the packages of a folder of `tests/clients`; return what runs its scripts, and where those are.

    `complete`: nothing is installed but what its list names, whatever the packages say that they need.
    """
    sources = CLIENTS / name
    place = _place(name, sources / "requirements.txt")
    python = place / "bin" / "python"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # (several processes may want it at once, and it cannot be moved)
        if not (place / "ready").exists():
            shutil.rmtree(place, ignore_errors=True)
            venv.create(place, with_pip=False)
            _install(
                *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"),
                *(("--no-deps",) if complete else ()),
                *("--requirement", str(sources / "requirements.txt")),
                folder=place,
                install_s=install_s,
            )
            (place / "ready").touch()
    return str(python), sources


def _place(name: str, versions: Path) -> Path:
    """Return the folder of a set of packages: another one for other versions."""
    content = versions.read_bytes() + sys.version.encode()
    return CACHE / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"


def _install(*command: str, folder: Path, install_s: float) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=install_s, check=False)
    if done.returncode != 0:
        _missing(f"{' '.join(command[:3])} could not install the clients: {done.stderr[-2000:]}")


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
