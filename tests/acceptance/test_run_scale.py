"""`make run-scale`: what a newcomer sees of several servers, and that it is true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 180


@pytest.mark.usefixtures("postgres")  # (it says where PostgreSQL is missing, or fails where CI promised it)
def test_the_demo_of_three_servers_kills_one_and_every_message_is_answered_once() -> None:
    command = [sys.executable, "-m", "tools.run_scale", "--before", "3", "--after", "13"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    before, killed, after = re.split(r"kill -9 of server (\d)\n", done.stdout)
    assert killed in "123"
    assert "passed on to server" in before
    for person in ("ada", "ben", "cleo", "dan"):
        last = int(re.findall(rf"{person} .*message (\d+) of this session", before)[-1])
        assert f"message {last + 1} of this session" in "".join(re.findall(rf"{person} .*\n", after))
    assert "each answered once and in order" in after
