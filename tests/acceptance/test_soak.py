"""A short soak: servers killed at random instants under mixed load, and nothing that was promised is broken.

`make soak` does the same for much longer.
"""

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import pytest

from acceptance.server import TARGETS
from soak.__main__ import ENDED_EARLY
from soak.blows import NAMES
from soak.database import Database
from soak.server import ROOT
from soak.several import SeveralTrial
from soak.strikes import LEASE_S, Strike, What
from soak.trial import Abilities, Trial

DEADLINE_S = 120
SEVERAL_SEED = 2441
"""By which the first three servers have workers, and none has a clock that is off: what is to end at a time may end a
minute later there."""
LONG_S = LEASE_S + 1.0
KINDS: list[tuple[What, str, float]] = [
    *(("half", "alone", 0.0), ("part", "silent", 1.0), ("cut", "reset", 0.0), ("freeze", "its workers too", LONG_S)),
    *(("kill", "", 0.0), ("restart", "", 0.0), ("half", "cut off", LONG_S), ("deploy", "", 0.0)),
    *(("half", "killed", 0.0), ("cut", "refused", 1.0), ("crash", "", 0.0), ("stop", "", 0.0)),
]
SCHEDULE = [
    Strike(what=what, how=how, after_s=0.3, whom=number, still_s=still_s, share=0.8)
    for number, (what, how, still_s) in enumerate(KINDS)
]


def test_twenty_kills_break_no_promise(tmp_path: Path) -> None:
    """Real servers, SIGKILL and SIGTERM, clients that wait and clients that leave; the seed is fixed."""
    trial = Trial(tmp_path, kills=20, seed=376)
    faults = asyncio.run(trial.run())
    assert faults == [], "\n".join(faults)
    numbers = trial.numbers()
    assert numbers.kills == 20
    assert numbers.servers > 20
    assert numbers.runs > 20
    assert numbers.tools > 20
    for played in (
        "joins",
        "questions",
        "answers",
        "cancels",
        "forced cancels",
        "cancels of sessions",
        "moves",
        "pauses",
        "deletions",
        "events of the webhook",
        "branches and files",
    ):
        assert f"\n{played}: " in trial.summary(), "it was played"


@pytest.mark.usefixtures("postgres_programs")
def test_a_strike_of_each_kind_at_several_servers_breaks_no_promise(tmp_path: Path) -> None:
    """Three servers over one PostgreSQL, behind networks of their own; a client may use any of them."""
    trial = SeveralTrial(tmp_path, kills=0, seed=SEVERAL_SEED, servers=3, schedule=[*SCHEDULE])
    faults = asyncio.run(trial.run())
    assert faults == [], "\n".join(faults)
    numbers = trial.numbers()
    assert numbers.kills == len(SCHEDULE)
    assert numbers.runs > 20
    assert numbers.tools > 20
    found = trial.summary()
    for played in ("freeze", "kill", "SIGTERM", *NAMES.values()):
        assert f" {played}" in found.splitlines()[0], f"{played}: {found}"
    assert re.search(r"^takeovers: [1-9]", found, re.M), found
    assert re.search(r"^streams: [1-9]\d* followed.*; [1-9]\d* ends", found, re.M), found
    assert "workers struck: " in found


@pytest.mark.usefixtures("postgres_programs")
def test_what_a_soak_reads_of_its_database_is_there_after_a_restart() -> None:
    with closing(Database(lease_ms=3000)) as database:
        assert database.stored() == []
        database.restart("fast")
        assert database.stored() == []


@pytest.mark.usefixtures("postgres_programs")
def test_a_soak_whose_servers_never_become_ready_says_what_they_logged(
    tmp_path: Path,
) -> None:
    """No server becomes ready: its last log lines are the fault, whatever else waits for it at that moment."""
    target = tmp_path / "target.py"
    target.write_text("raise RuntimeError('the agent is not installed')\n")
    (folder := tmp_path / "soak").mkdir()
    trial = SeveralTrial(folder, kills=1, seed=SEVERAL_SEED, servers=2, target=str(target))
    faults = asyncio.run(trial.run())
    found = [fault for fault in faults if "no server became ready before 3 had ended" in fault]
    assert len(found) == 1, faults
    assert "the agent is not installed" in found[0]


def test_a_server_that_checkpoints_too_late_is_found_out(tmp_path: Path) -> None:
    """What a soak is worth: a server that lets tools begin before the journal knows of them does not pass."""
    trial = Trial(tmp_path, kills=6, seed=361, target=str(TARGETS / "hasty.py"), abilities=Abilities(workers=False))
    faults = asyncio.run(trial.run())
    assert any("times" in fault or "not in history" in fault for fault in faults), faults


def test_an_interrupted_soak_still_judges(tmp_path: Path) -> None:
    """Ctrl-C ends the killing; servers are stopped cleanly, and what was done until then is judged."""
    command = [sys.executable, "-u", "-m", "soak", "--kills", "100000", "--seed", "1"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "seed 1, 100000 kills" in first
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=DEADLINE_S)[0]
    assert process.returncode == 0, rest
    assert "nothing was wrong" in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("postgres_programs")
@pytest.mark.parametrize("when", ["it starts", "servers are killed"])
def test_a_soak_that_is_to_end_at_once_ends_its_servers_and_its_database(when: str) -> None:
    """SIGTERM judges nothing, and leaves no process."""
    command = [sys.executable, "-u", "-m", "soak", "--kills", "100000", "--seed", "1", "--servers", "2"]
    with tempfile.TemporaryDirectory() as folder:  # (which the database's own user can reach)
        Path(folder).chmod(0o755)
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": folder}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "seed 1, 100000 kills" in process.stdout.readline()
            if when == "servers are killed":
                assert "/100000 kills" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=DEADLINE_S)[0]
        assert process.returncode == ENDED_EARLY, rest
        assert "ended before anything was judged" in rest
        assert [each.name for each in Path(folder).glob("strandline-pg-*")] == []
        for left in _processes_in(folder):
            with suppress(ProcessLookupError):
                ended = os.pidfd_open(left)
                assert select.select([ended], [], [], DEADLINE_S)[0], f"process {left} stays"
                os.close(ended)


def _processes_in(folder: str) -> list[int]:
    """Return which processes work in a folder, by what they were started with."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if folder.encode() in each.read_bytes():
                found.append(int(each.parent.name))
    return found
