"""Whom the image's entry becomes where users of the container are others outside: in real user namespaces."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

ENTRY: Final = Path(__file__).parents[2] / "container" / "entry.py"
PYTHON: Final = "/usr/bin/python3"
"""One that every user may execute."""
MAIN: Final = """
import importlib.util, sys
from pathlib import Path
place = Path(sys.argv[1])
spec = importlib.util.spec_from_file_location("entry", place / "entry.py")
entry = importlib.util.module_from_spec(spec)
spec.loader.exec_module(entry)
entry.DATA, entry.AWS = place / "data", place / "nothing"
entry.main([sys.executable, "-c", sys.argv[2]])
"""
WHO: Final = """
import os
status = dict(line.split(":\t") for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
rights = (status[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Amb"))
print(os.getuid(), os.getgid(), os.getcwd().rpartition("/")[2], *rights)
open("made", "w").close()
"""
NO_RIGHTS: Final = ["0" * 16] * 4


@pytest.fixture
def entry() -> ModuleType:
    spec = importlib.util.spec_from_file_location("entry", ENTRY)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user of this machine may enter, with the entry and a `data` of its own."""
    if sys.platform != "linux" or os.getuid() != 0 or not Path(PYTHON).exists():
        pytest.skip("needs root on Linux, and a Python that others may execute")
    made = Path(tempfile.mkdtemp(prefix="strandline-entry-"))
    try:
        made.chmod(0o755)
        shutil.copy(ENTRY, made / "entry.py")
        (made / "entry.py").chmod(0o644)
        (made / "data").mkdir()
        (made / "data" / "note").write_text("of before")
        yield made
    finally:
        shutil.rmtree(made)


def entered(place: Path, owner: int, *ids: str) -> list[str]:
    """Run the entry as root of a user namespace with these ids, on data of this owner; return what it came to."""
    for each in (place / "data", place / "data" / "note"):
        os.chown(each, owner, owner)
    maps = [option for each in ids for option in (f"--map-users={each}", f"--map-groups={each}")]
    command = ["unshare", "--user", *maps, "--setuid=0", "--setgid=0", PYTHON, "-I", "-S", "-c", MAIN, str(place), WHO]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")
    if done.returncode == 1 and "unshare" in done.stderr:
        pytest.skip(f"no user namespace can be made here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def owners(place: Path) -> set[int]:
    """Return whose the data is on this machine."""
    return {each.lstat().st_uid for each in (place / "data", *(place / "data").rglob("*"))}


ROOTLESS: Final = ("0:1234:1", "1:100000:65535")


def test_in_a_rootless_engine_a_folder_of_yours_stays_yours_and_the_server_is_you_without_any_right_of_root(
    place: Path,
) -> None:
    assert entered(place, 1234, *ROOTLESS) == ["0", "0", "workspace", *NO_RIGHTS]
    assert owners(place) == {1234}
    assert (place / "data" / "workspace" / "made").exists()


def test_in_a_rootless_engine_data_of_the_images_user_is_used_as_that_one(place: Path) -> None:
    """As named volumes are, and folders that an older version has given away."""
    assert entered(place, 110_000, *ROOTLESS) == ["10001", "10001", "workspace", *NO_RIGHTS]
    assert owners(place) == {110_000}


def test_where_root_is_the_first_of_many_ids_that_are_nobodys_its_data_is_given_to_the_images_user(
    place: Path,
) -> None:
    assert entered(place, 200_000, "0:200000:65536") == ["10001", "10001", "workspace", *NO_RIGHTS]
    assert owners(place) == {210_001}


@pytest.mark.parametrize(
    ("ids", "is_a_person"),
    [
        ("         0       1000          1\n         1     100000      65536\n", True),
        ("0 1000 1", True),
        ("0 100000 65536", False),
        ("0 0 4294967295", False),
        ("0 0 1", False),
        ("0 100000 1000\n1000 1000 1\n1001 101001 64535", False),
        ("", False),
        (None, False),
    ],
    ids=["rootless", "alone", "remapped", "the host's", "the host's alone", "LXC", "empty", "unknown"],
)
def test_root_is_a_person_where_it_is_one_user_of_the_host_that_is_not_root(
    entry: ModuleType, tmp_path: Path, ids: str | None, is_a_person: bool
) -> None:
    entry.UID_MAP = tmp_path / "uid_map"  # type: ignore[attr-defined]
    if ids is not None:
        (tmp_path / "uid_map").write_text(ids)
    assert entry._is_a_person() is is_a_person
