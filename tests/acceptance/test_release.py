"""`tools/release.py` as it is run: in a repository of its own, which is made of this checkout."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
DEADLINE_S: Final = 600.0
NOBODY: Final = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@localhost",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@localhost",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}
DOCKER: Final = """#!/bin/sh
printf '%s\\n' "$@" > docker.said
"""


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | NOBODY, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with all files that this one has, in one commit."""
    folder = tmp_path / "checkout"
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    changelog = folder / "CHANGELOG.md"
    text = changelog.read_text()
    if "\n- " not in text.partition("\n## [Unreleased]\n")[2].partition("\n## ")[0]:  # (just after a release)
        changelog.write_text(text.replace("\n## [Unreleased]\n", "\n## [Unreleased]\n\n- A thing.\n", 1))
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "All of it")
    return folder


def release(folder: Path, *arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/release.py", *arguments], cwd=folder, env=os.environ | NOBODY | (environ or {}),
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def state(folder: Path) -> tuple[str, str, str]:
    return git(folder, "rev-parse", "HEAD"), git(folder, "status", "--porcelain"), git(folder, "tag")


def test_help_says_what_it_does(checkout: Path) -> None:
    done = release(checkout, "--help")
    assert done.returncode == 0
    for word in ("--dry-run", "--green", "--no-image", "SBOM", "changes nothing"):
        assert word in done.stdout


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(checkout: Path) -> None:
    before = state(checkout)
    done = release(checkout, "7.0.0", "--green", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would set the version from" in done.stdout
    assert "tag v7.0.0" in done.stdout
    assert state(checkout) == before
    assert not (checkout / "dist").exists()


def test_everything_that_stands_against_it_is_said_at_once(checkout: Path) -> None:
    text = (checkout / "CHANGELOG.md").read_text()
    heading = text.index("\n## [Unreleased]\n") + len("\n## [Unreleased]\n")
    (checkout / "CHANGELOG.md").write_text(text[:heading] + "\n## [0.1.0]\n")
    git(checkout, "tag", "v7.0.0")
    before = state(checkout)
    done = release(checkout, "7.0.0")
    assert done.returncode == 1
    for expected in ("the tag v7.0.0 is there", "CHANGELOG.md\n", "no entry under [Unreleased]", "--green"):
        assert expected in done.stderr, expected
    assert state(checkout) == before


@pytest.mark.parametrize("version", ["0.0.1", "0.1.0a1", "next"])
def test_a_version_that_does_not_come_next_is_refused(version: str, checkout: Path) -> None:
    done = release(checkout, version, "--green", "--dry-run")
    assert done.returncode == 1
    assert re.search("does not come after|is no version", done.stderr)


def test_the_version_of_the_source_is_released_once(checkout: Path) -> None:
    source = (checkout / "src/strandline/__init__.py").read_text()
    version = re.findall(r'__version__ = "(.+)"', source)[0]
    assert release(checkout, version, "--green", "--dry-run").returncode == 0
    git(checkout, "tag", f"v{version}")
    assert "is there already" in release(checkout, version, "--green", "--dry-run").stderr


def test_a_step_that_fails_puts_everything_back(checkout: Path) -> None:
    (checkout / "constraints.txt").write_text("# -- run: nothing\n")
    git(checkout, "commit", "--quiet", "--all", "--message", "Break what installs")
    before = state(checkout)
    done = release(checkout, "7.0.0", "--green", "--no-image")
    assert done.returncode == 1
    assert "nothing was released" in done.stderr
    assert state(checkout) == before


def test_a_release(checkout: Path, tmp_path: Path) -> None:
    """Docker is one that says what it was asked: that the image itself works is shown in `test_container.py`."""
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "docker").write_text(DOCKER)
    (commands / "docker").chmod(0o755)
    (checkout / ".git/info/exclude").write_text("docker.said\n")
    before = git(checkout, "rev-parse", "HEAD")
    done = release(checkout, "7.0.0", "--green", environ={"PATH": f"{commands}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr

    head, changed, tags = state(checkout)
    assert (changed, tags) == ("", "v7.0.0")
    assert git(checkout, "rev-parse", "HEAD~", "v7.0.0^{commit}").split() == [before, head]
    assert git(checkout, "log", "-1", "--format=%s") == "Release 7.0.0"
    files = git(checkout, "diff", "--name-only", "HEAD~").split()
    assert {"CHANGELOG.md", "src/strandline/__init__.py"} <= set(files)
    assert all(name.startswith(("docs/", "src/strandline/__init__.py", "CHANGELOG.md")) for name in files)
    message = git(checkout, "tag", "--list", "--format=%(contents)", "v7.0.0")
    assert message.startswith("Strandline 7.0.0\n\n")
    assert "\n- " in message
    assert re.search(
        r"(?m)^## \[Unreleased\]\n\n## \[7\.0\.0\] - \d{4}-\d\d-\d\d$", (checkout / "CHANGELOG.md").read_text()
    )

    dist = checkout / "dist"
    names = {each.name for each in dist.iterdir()}
    wheel, sdist, sbom = "strandline-7.0.0-py3-none-any.whl", "strandline-7.0.0.tar.gz", "strandline-7.0.0.cdx.json"
    assert names == {wheel, sdist, sbom, "SHA256SUMS"}
    for line in (dist / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest
    with zipfile.ZipFile(dist / wheel) as opened:
        assert '"7.0.0"' in opened.read("strandline/__init__.py").decode()
        assert "\nVersion: 7.0.0\n" in opened.read("strandline-7.0.0.dist-info/METADATA").decode()
    with tarfile.open(dist / sdist) as packed:
        assert "strandline-7.0.0/src/strandline/__init__.py" in packed.getnames()

    parts = json.loads((dist / sbom).read_text())
    versions: dict[str, str] = {canonicalize_name(each["name"]): each["version"] for each in parts["components"]}
    assert versions["strandline"] == "7.0.0"
    shown = subprocess.run(
        [sys.executable, "tools/pins.py", "show", "run"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout
    pinned = {canonicalize_name(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", shown)}
    assert set(pinned) - set(versions) == set()
    assert {name for name, version in pinned.items() if versions[name] != version} == set()
    assert "cyclonedx-bom" not in versions

    said = (checkout / "docker.said").read_text().splitlines()
    assert said[-2:] == ["strandline:7.0.0", "."]
    assert "org.opencontainers.image.version=7.0.0" in said
    assert f"org.opencontainers.image.revision={head}" in said
