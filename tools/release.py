"""Release a version of Strandline: check, set the version, date the changelog, build, tag. Publishes nothing.

    python tools/release.py 0.2.0 --green --dry-run    say what would be done, after all checks
    python tools/release.py 0.2.0 --green              do it; the artefacts are in dist/

Checks first, all of them, and changes nothing if one fails: the version is one that comes after that of the source, or
is that one if it has no tag yet; nothing is uncommitted; the tag is not there; the changelog has entries under
[Unreleased]; and you say with --green that `.ci/run` was green on this commit, since nothing here runs the tests.

Then: the version goes into src/strandline/__init__.py (its only place; pyproject.toml reads it there), into what pages
show of servers and into the table of docs/compatibility.md; the entries get a heading with version and date; that is
committed. Wheel, sdist, image, SBOM (CycloneDX: all that is installed with the wheel, in the versions of
constraints.txt) and SHA256SUMS are made of the commit, which then gets the tag vVERSION, with the entries as its
message. If anything fails on the way, the branch is put back where it was.

Needs git, Python 3.11 or newer and, unless --no-image, docker. What builds is installed into an environment of its own,
every file checked against constraints.txt.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:(a|b|rc)(\d+))?")
SOURCE: Final = "src/strandline/__init__.py"
CHANGELOG: Final = "CHANGELOG.md"
COMPATIBILITY: Final = "docs/compatibility.md"
NEXT: Final = "not released yet"
UNRELEASED: Final = "## [Unreleased]"


class Refused(Exception):
    """A check that failed, or a step that did; its text says what to do."""


@dataclass(frozen=True)
class Wanted:
    """The requested release."""

    version: str
    green: bool
    image: bool
    day: date
    folder: Path

    @property
    def tag(self) -> str:
        """The name of its tag."""
        return f"v{self.version}"


# -- what is read and written ---------------------------------------------------------------------------


def key(version: str) -> tuple[int, int, int, int, int]:
    """Return what versions are ordered by: `1.0.0a1 < 1.0.0rc1 < 1.0.0 < 1.0.1`. Raises `Refused`."""
    match = VERSION.fullmatch(version)
    if match is None:
        raise Refused(f"{version} is no version: write one as 1.2.3, or 1.2.3rc1")
    checkpoint = {"a": 0, "b": 1, "rc": 2, None: 3}[match[4]]
    return int(match[1]), int(match[2]), int(match[3]), checkpoint, int(match[5] or 0)


def version_of(source: str) -> str:
    """Return the version that the source says."""
    found = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if len(found) != 1:
        raise Refused(f"{SOURCE} has to say `__version__` once, and does {len(found)} times")
    return str(found[0])


def entries(changelog: str) -> str:
    """Return what stands under [Unreleased]; "" if there is no entry."""
    _, heading, rest = changelog.partition(f"\n{UNRELEASED}\n")
    if not heading:
        raise Refused(f"{CHANGELOG} has no heading `{UNRELEASED}`")
    text = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()
    return text if re.search(r"^- ", text, re.MULTILINE) else ""


def dated(changelog: str, version: str, day: date) -> str:
    """Return the changelog with what was under [Unreleased] under the version, and nothing there."""
    return changelog.replace(f"\n{UNRELEASED}\n", f"\n{UNRELEASED}\n\n## [{version}] - {day.isoformat()}\n", 1)


def renamed(page: str, old: str, new: str) -> str:
    """Return a page on which servers and commands say the new version where they said the old one."""
    return re.sub(rf'([Ss]trandline |"version": ?"){re.escape(old)}(?![\w.]*\d)', rf"\g<1>{new}", page)


def with_journals(page: str, version: str) -> str:
    """Return docs/compatibility.md with a row of the version: that of what was not released, or one like the latest."""
    row = re.search(rf"(?m)^\| ({NEXT}|\d[\w.]*) (\| \d+ \| [\w ]+ \|)$", page)
    if row is None:
        raise Refused(f"{COMPATIBILITY} has no table of versions and schemas")
    return page[: row.start()] + f"| {version} {row[2]}\n" + page[row.start() if row[1] != NEXT else row.end() + 1 :]


# -- the steps -------------------------------------------------------------------------------------------


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """Run a command; return what it prints. Raises `Refused` if it fails."""
    done = subprocess.run(
        [str(each) for each in command], cwd=folder, env=os.environ | variables, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise Refused(f"`{' '.join(map(str, command))}` failed:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def check(wanted: Wanted) -> str:
    """Return the version of the source. Raises `Refused` with everything that stands against the release."""
    against: list[str] = []
    old = version_of((wanted.folder / SOURCE).read_text(encoding="utf-8"))
    tags = run("git", "tag", "--list", "v*", folder=wanted.folder).split()
    if wanted.tag in tags:
        against.append(f"the tag {wanted.tag} is there already: choose the next version")
    elif key(wanted.version) < key(old) or (wanted.version == old and f"v{old}" in tags):
        against.append(f"{wanted.version} does not come after {old}")
    if changed := run("git", "status", "--porcelain", folder=wanted.folder):
        against.append(f"there are changes that are not committed; commit or drop them:\n{changed}")
    if not entries((wanted.folder / CHANGELOG).read_text(encoding="utf-8")):
        against.append(f"{CHANGELOG} has no entry under [Unreleased]: what would users get?")
    if not wanted.green:
        against.append("run `.ci/run` on this commit; once it is green say so with --green")
    if against:
        raise Refused("\n".join(against))
    return old


def write(wanted: Wanted, old: str) -> None:
    """Set the version and date the changelog."""

    def rewrite(path: Path, change: Callable[[str], str]) -> None:
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    rewrite(wanted.folder / SOURCE, lambda text: text.replace(f'"{old}"', f'"{wanted.version}"', 1))
    rewrite(wanted.folder / CHANGELOG, lambda text: dated(text, wanted.version, wanted.day))
    rewrite(wanted.folder / COMPATIBILITY, lambda text: with_journals(text, wanted.version))
    for page in sorted((wanted.folder / "docs").glob("*.md")):
        rewrite(page, lambda text: renamed(text, old, wanted.version))


@contextmanager
def put_back_if_it_fails(folder: Path) -> Iterator[None]:
    """Put the branch, and the files that it has, back where they were if the body raises."""
    before = run("git", "rev-parse", "HEAD", folder=folder)
    try:
        yield
    except BaseException:
        run("git", "reset", "--quiet", "--hard", before, folder=folder)  # (nothing was uncommitted: that was checked)
        raise


def environment(folder: Path, place: Path, *groups: str) -> Path:
    """Make an environment with groups of constraints.txt; return its Python."""
    venv.create(place, with_pip=True, symlinks=True)
    python = place / "bin" / "python"
    pins = place / "pins.txt"
    pins.write_text(run(sys.executable, "tools/pins.py", "show", *groups, folder=folder))
    pip(python, folder, "install", "--no-compile", "--require-hashes", "--requirement", pins)
    return python


def pip(python: Path, folder: Path, *arguments: str | Path) -> None:
    """Run an environment's pip."""
    run(python, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check", *arguments, folder=folder)


def build(wanted: Wanted, artefacts: Path, say: Callable[[str], None]) -> None:
    """Make all artefacts of the commit that is checked out."""
    artefacts.mkdir(parents=True, exist_ok=True)
    for old in artefacts.iterdir():
        old.unlink()
    committed_at = run("git", "log", "-1", "--format=%ct", folder=wanted.folder)
    with tempfile.TemporaryDirectory() as made:
        say("installing what builds")
        tools = environment(wanted.folder, Path(made) / "tools", "build", "release")
        say("building wheel and sdist")
        run(
            tools, "-m", "hatchling", "build", "--target", "wheel", "--target", "sdist", "--directory", artefacts,
            folder=wanted.folder, SOURCE_DATE_EPOCH=committed_at,
        )  # fmt: skip
        (wheel,) = artefacts.glob("*.whl")
        if f"-{wanted.version}-" not in wheel.name:
            raise Refused(f"the wheel is {wheel.name}, not one of {wanted.version}")
        say("listing its installed dependencies (SBOM)")
        served = environment(wanted.folder, Path(made) / "served", "run")
        pip(served, wanted.folder, "install", "--no-compile", "--no-index", "--no-deps", wheel)
        pip(served, wanted.folder, "uninstall", "--yes", "pip")  # (no part of it)
        run(
            tools.with_name("cyclonedx-py"), "environment", "--output-reproducible", "--of", "JSON",
            "--output-file", artefacts / f"strandline-{wanted.version}.cdx.json", served, folder=wanted.folder,
        )  # fmt: skip
    if wanted.image:
        say("building the image")
        run("make", "image", f"IMAGE=strandline:{wanted.version}", folder=wanted.folder)
    sums = [f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}\n" for each in sorted(artefacts.iterdir())]
    (artefacts / "SHA256SUMS").write_text("".join(sums))


def release(wanted: Wanted, say: Callable[[str], None]) -> None:
    """Do all of it."""
    old = check(wanted)
    notes = entries((wanted.folder / CHANGELOG).read_text(encoding="utf-8"))
    with put_back_if_it_fails(wanted.folder):
        say(f"setting the version: {old} becomes {wanted.version}")
        write(wanted, old)
        run("git", "commit", "--quiet", "--all", "--message", f"Release {wanted.version}", folder=wanted.folder)
        build(wanted, wanted.folder / "dist", say)
        say(f"tagging {wanted.tag}")
        message = f"Strandline {wanted.version}\n\n{notes}"
        # (a line that begins with # is a heading of the changelog, no comment)
        run("git", "tag", "--annotate", "--cleanup=verbatim", "--message", message, wanted.tag, folder=wanted.folder)


def main(arguments: list[str]) -> int:
    """Run the release; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="tools/release.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", help="the version to release, such as 0.2.0 or 0.2.0rc1")
    parser.add_argument("--green", action="store_true", help="say that `.ci/run` was green on this commit")
    parser.add_argument("--dry-run", action="store_true", help="check, say what would be done, and change nothing")
    parser.add_argument("--no-image", action="store_true", help="build no image")
    given = parser.parse_args(arguments)
    folder = Path(__file__).resolve().parent.parent
    wanted = Wanted(given.version, given.green, not given.no_image, datetime.now(UTC).date(), folder)

    def say(text: str) -> None:
        print(f"==> {text}", flush=True)  # noqa: T201

    try:
        key(wanted.version)
        if given.dry_run:
            old = check(wanted)
            say(f"would set the version from {old} to {wanted.version}, and date the changelog {wanted.day}")
            say("would commit with these changelog entries:")
            print(entries((folder / CHANGELOG).read_text(encoding="utf-8")))  # noqa: T201
            image = f", the image strandline:{wanted.version}" if wanted.image else ""
            say(f"would build wheel, sdist, SBOM{image} and SHA256SUMS into dist/, and tag {wanted.tag}")
        else:
            release(wanted, say)
            say(f"released {wanted.version}; artefacts are in dist/. To publish: git push origin HEAD {wanted.tag}")
    except Refused as refused:
        print(f"\nnothing was released: {refused}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
